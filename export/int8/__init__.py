"""What makes a network int8."""
