"""The Open Inference Protocol v2, which Triton, KServe, OpenVINO and MLServer speak."""
