"""What a run leaves on disk, and who watches it while it trains."""
