"""What all packages share: manifests, files, image bytes to tensor, averages of probabilities."""
