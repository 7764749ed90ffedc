"""The way of a task, one verb a file. Only here and in upkeep/ are task rows written."""
