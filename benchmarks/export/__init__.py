"""What selection, cascades and int8 gain."""
