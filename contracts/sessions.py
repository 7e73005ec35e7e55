"""ONNX Runtime as this product uses it: one thread, silent, and nothing sent to anybody.

Not imported by the other modules here: reading a manifest needs no ONNX Runtime.
"""

import os

# Official builds send usage events to their maker unless this is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # see above

RUNTIME_VERSION: str = onnxruntime.__version__


def session_options() -> onnxruntime.SessionOptions:
    """One thread per session: who runs several owns the threads, so none has a pool or spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A pattern is remembered for every batch size that is ever seen, and never forgotten.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def open_session(onnx_file: bytes) -> onnxruntime.InferenceSession:
    """A session over the bytes of an ONNX file; raises whatever ONNX Runtime raises."""
    return onnxruntime.InferenceSession(
        onnx_file, session_options(), providers=["CPUExecutionProvider"]
    )
