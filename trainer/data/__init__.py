"""Images of every source as arrays, and how a batch of them is varied."""
