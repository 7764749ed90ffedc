"""The child process that imports the user's app and runs handlers."""
