"""The child process that runs handlers: it imports the user's app, and never SQL or Redis."""
