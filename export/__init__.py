"""The best snapshots of a run as ONNX members of a bundle."""
