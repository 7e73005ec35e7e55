"""A bundle's averaged class probabilities over HTTP: ONNX Runtime and FastAPI, no torch."""
