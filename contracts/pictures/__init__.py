"""What decoding a picture can cost, from its bytes alone, and decoding it within that."""
