"""The `taskmill` command."""
