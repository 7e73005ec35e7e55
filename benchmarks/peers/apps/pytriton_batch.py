"""PyTriton: Triton's HTTP server and dynamic batcher in front of Python.

An instance of the inference function per core (its page "Binding Models to Triton"), batches formed
without delay from what waits, which is the default and which Triton's page "Batchers" advises to
start with. The body is the picture itself: Triton's raw binary request, one element of type BYTES.
Its stub process needs the shared library of the Python that runs it. PyTriton refuses NumPy 2.
"""

import os
import signal
import sys
import sysconfig
import threading

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.apps.members import CORES, HOST, MAX_BATCH_SIZE, PORT, Members


def main() -> None:
    """Serve until a signal comes."""
    members = Members()

    @batch  # type: ignore[untyped-decorator] # not installed here
    def predict(picture: "np.ndarray") -> dict[str, "np.ndarray"]:
        images = [members.decode(one) for one in picture[:, 0]]
        return {"probabilities": members.ask(np.stack(images)).astype(np.float64)}

    config = TritonConfig(
        http_address=HOST,
        http_port=PORT,
        grpc_address=HOST,
        grpc_port=PORT + 1,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="ensemble",
            infer_func=[predict] * CORES,
            inputs=[Tensor(name="picture", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="probabilities", dtype=np.float64, shape=(len(members.bundle.classes),))
            ],
            config=ModelConfig(max_batch_size=MAX_BATCH_SIZE, batcher=DynamicBatcher()),
        )
        triton.run()
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        stop.wait()


if __name__ == "__main__":
    library = str(sysconfig.get_config_var("LIBDIR"))
    if library not in os.environ.get("LD_LIBRARY_PATH", "").split(":"):
        os.environ["LD_LIBRARY_PATH"] = f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.peers.apps.pytriton_batch"])  # noqa: S606
    main()
