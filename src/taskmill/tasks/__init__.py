"""The way of a task, one verb a file."""
