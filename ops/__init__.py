"""The operator's room: the command line, what it starts, and the console."""
