"""What the rooms agree on: manifests, files, image bytes to tensor, averages of probabilities."""
