"""Containers of the serving image: started, stopped, put behind nginx and sent requests."""
