"""What fine-tuning does before its first step: features of a trunk that stays, and a first head."""
