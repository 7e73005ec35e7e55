"""Several runs from one command: one after another, or beside each other on a cluster."""
