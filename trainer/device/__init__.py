"""What the trainer knows of the device that it trains on."""
