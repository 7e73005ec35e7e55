"""Would OpenVINO answer faster than ONNX Runtime does?

    pip install openvino
    python -m benchmarks.serving.openvino

The product's own graphs of two networks, ResNet-20 at 32 pixels and EfficientNet-Lite0 at 160, in
fp32 and in int8, with random weights, which run as long as trained ones. Both engines get one
thread per lane, as the server gives it, and no pinning; OpenVINO gets a graph of a fixed batch, or
of any. One lane, then as many as there are cores, each in a thread of its own, are asked in turns,
so that a busy machine hurts both alike. The ratio is of images/s; the processor's time says whether
a thread waits by turning round. `agrees` is the share of images with the same class in both.

Shapes: B images, C channels, H height, W width, K classes.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import save, spread
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.pixels import ImageContract
from snapensemble.contracts.sessions import open_session
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import to_onnx
from snapensemble.trainer.models.registry import build_model

NETWORKS = {"resnet20": 32, "efficientnet-lite0": 160}  # by the side of an image, pixels
CLASSES = 10
CALIBRATION = 64  # images
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="of each case (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="each engine in a round (1)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="images (1 16)")
    parser.add_argument("--name", default="openvino", help="of the result files (openvino)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for network, side in NETWORKS.items():
        for precision, onnx_file in onnx_files(network, side).items():
            for batch in args.batches:
                for lanes in sorted({1, cpu_budget()}):
                    case: dict[str, Any] = {"network": network, "precision": precision}
                    case |= {"batch": batch, "lanes": lanes}
                    case |= compared(onnx_file, side, batch, lanes, args)
                    cases.append(case)
                    print(*row(case), sep=" | ", flush=True)
    save(args.name, {"cases": cases}, [HEAD, *map(row, cases)])


def onnx_files(network: str, side: int) -> dict[str, bytes]:
    """The network as the product exports it, by precision."""
    image = ImageContract(channels=3, height=side, width=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    torch.manual_seed(0)
    model = build_model(network, CLASSES, image)
    # Statistics of a batch in place of those of no data, or deep features vanish.
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model((torch.from_numpy(noise(32, side)).float() / 255 - 0.5) / 0.25)
    fp32 = to_onnx(model.eval(), image)
    return {"fp32": fp32, "int8": to_int8(fp32, noise(CALIBRATION, side))}


def noise(batch: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """images_BCHW of random pixels."""
    shape = (batch, 3, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def compared(
    onnx_file: bytes, side: int, batch: int, lanes: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Images/s and the processor's seconds per second of both engines, round by round."""
    images_BCHW = noise(batch, side, seed=1)
    engines: dict[str, list[Infer]] = {
        "onnxruntime": [onnx_runtime(onnx_file) for _ in range(lanes)],
        "fixed": [openvino(onnx_file, images_BCHW.shape) for _ in range(lanes)],
        "any": [openvino(onnx_file, (-1, *images_BCHW.shape[1:])) for _ in range(lanes)],
    }
    answers = {name: engine[0](images_BCHW).argmax(axis=1) for name, engine in engines.items()}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    busy: dict[str, list[float]] = {name: [] for name in engines}
    with ThreadPoolExecutor(lanes) as pool:
        for _ in range(args.rounds):
            for name, engine in engines.items():
                began, used = time.perf_counter(), time.process_time()
                end = began + args.seconds
                counts = pool.map(lambda infer, end=end: runs(infer, images_BCHW, end), engine)
                runs_made = sum(counts)
                took_s = time.perf_counter() - began
                rates[name].append(runs_made * batch / took_s)
                busy[name].append((time.process_time() - used) / took_s)
    agrees = {n: float(np.mean(answers[n] == answers["onnxruntime"])) for n in ("fixed", "any")}
    return {"rates": rates, "busy": busy, "agrees": agrees}


def runs(infer: Infer, images_BCHW: NDArray[np.uint8], end: float) -> int:
    """How often an engine has answered until then."""
    count = 0
    while time.perf_counter() < end:
        infer(images_BCHW)
        count += 1
    return count


def onnx_runtime(onnx_file: bytes) -> Infer:
    """A session as the server opens it."""
    session = open_session(onnx_file)
    name = session.get_inputs()[0].name
    output = session.get_outputs()[0].name
    return lambda images_BCHW: session.run([output], {name: images_BCHW})[0]


def openvino(onnx_file: bytes, shape: tuple[int, ...]) -> Infer:
    """A compiled model of one thread; -1 in its shape is any number."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(onnx_file)
    model.reshape({model.inputs[0]: ov.PartialShape(list(shape))})
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()
    output = compiled.outputs[0]
    return lambda images_BCHW: np.array(request.infer([images_BCHW])[output])


HEAD = ("network", "precision", "batch", "lanes", "ONNX Runtime, images/s",
        "OpenVINO, fixed batch, times", "any batch, times", "processors busy: ORT, fixed, any",
        "agrees: fixed, any")  # fmt: skip


def row(case: dict[str, Any]) -> tuple[str, ...]:
    """A case of the table."""
    rates, busy, agrees = case["rates"], case["busy"], case["agrees"]
    usual = np.array(rates["onnxruntime"])
    ratios = {name: list(np.array(rates[name]) / usual) for name in agrees}
    return (
        case["network"],
        case["precision"],
        f"{case['batch']}",
        f"{case['lanes']}",
        spread(rates["onnxruntime"], ".0f"),
        *(spread(values, ".2f") for values in ratios.values()),
        ", ".join(f"{np.median(values):.2f}" for values in busy.values()),
        ", ".join(f"{share:.0%}" for share in agrees.values()),
    )


if __name__ == "__main__":
    main()
