"""Other ways to serve the same members, each as its documents advise; see `__main__.py`."""
