"""Reports: one HTML page with charts about a run or a bundle."""
