"""What a server bears, and at what price."""
