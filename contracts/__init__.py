"""What the rooms agree on: manifests, files, image bytes to tensor, and the arithmetic of averages."""
