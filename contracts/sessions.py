"""ONNX Runtime as this product uses it: one thread, silent, and nothing sent to anybody.

The other modules here do not import it: reading a manifest needs no ONNX Runtime.
"""

import os
from collections.abc import Sequence
from typing import Literal

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.protobuf.onnx_files import check_onnx

# Official builds send usage events to their maker unless this is set before the first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # see above

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
RUNTIME_VERSION: str = onnxruntime.__version__


def session_options() -> onnxruntime.SessionOptions:
    """Options for one thread per session, no pool and no spinning: the caller owns the threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # ONNX Runtime would keep a pattern for every batch size that it ever sees.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Otherwise bytes in ONNX Runtime's own format would be taken too, by a parser that checks less.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def open_session(
    onnx_file: bytes, providers: Sequence[Provider] = ("cpu",)
) -> onnxruntime.InferenceSession:
    """A session over the bytes of an ONNX file; raises whatever ONNX Runtime raises.

    Args:
        onnx_file: the bytes of the file.
        providers: what runs its nodes, the first that can; the processor does what is left.

    Raises:
        RefusedOnnx: the file asks for more than its own bytes; ONNX Runtime has not seen it.
    """
    check_onnx(onnx_file)
    return onnxruntime.InferenceSession(
        onnx_file, session_options(), providers=[PROVIDERS[name] for name in providers]
    )


def check_providers(providers: Sequence[Provider]) -> None:
    """Raise InvalidConfig if the installed ONNX Runtime was built without one of these."""
    built = onnxruntime.get_available_providers()
    absent = [name for name in providers if PROVIDERS[name] not in built]
    if absent:
        known = ", ".join(name for name, full in PROVIDERS.items() if full in built)
        raise InvalidConfig(
            f"--providers: ONNX Runtime {RUNTIME_VERSION} as installed has no "
            f"{' and no '.join(absent)}, only {known}; another package such as onnxruntime-gpu or "
            "onnxruntime-openvino has others"
        )
