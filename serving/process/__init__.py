"""How the processes of a server start, share what they hold, and end."""
