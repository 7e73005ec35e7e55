"""What prediction and training on a cluster share: its options, and the way into it."""
