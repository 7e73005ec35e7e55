"""How fast training is, and what it leads to."""
