"""The command line, and what needs more than one room: evaluate and demo."""
