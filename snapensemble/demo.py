"""`snapensemble demo`: the whole way on the embedded digits, from images to answers over HTTP."""

import argparse
import io
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import Options, add_options, build
from snapensemble.contracts.process import Stopped
from snapensemble.contracts.run import RUN_FILE
from snapensemble.server_process import server_process

if TYPE_CHECKING:  # torch and scikit-learn take seconds to import; `--help` needs neither
    from snapensemble.trainer.config import TrainConfig

PORT = 8000


class DemoConfig(Options):
    """Where the demo works."""

    out: Path = Field(
        Path("demo"), description="where run and bundle go", json_schema_extra={"metavar": "DIR"}
    )
    port: int | None = Field(
        None, ge=0, le=65535, description=f"port to serve on ({PORT}, or a free one)"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble demo`."""
    parser.add_argument("--once", action="store_true", help="stop after the answers")
    add_options(parser, DemoConfig)


def run(args: argparse.Namespace) -> int:
    """Train, export, evaluate, serve, ask; then serve until Ctrl-C.

    Returns:
        The exit code: 0, or 1 if the ensemble got more than 2 of the 10 images wrong.
    """
    from snapensemble.evaluate import evaluate, table
    from snapensemble.export.bundle import build_bundle
    from snapensemble.export.cli import describe
    from snapensemble.export.config import ExportConfig
    from snapensemble.predict import predict_with_url
    from snapensemble.trainer.run import train

    started = time.monotonic()
    options = vars(args)
    once = options.pop("once")
    demo = build(DemoConfig, options)
    run_dir, bundle_dir, images_dir = (demo.out / name for name in ("run", "bundle", "images"))
    remove_former(run_dir, RUN_FILE)
    remove_former(bundle_dir, BUNDLE_FILE)

    heading("1. Train: SGDR on scikit-learn's digits, one snapshot per cycle")
    train(demo_config(run_dir))
    heading("2. Export to ONNX what is as good as the best, and cheapest")
    print(describe(build_bundle(run_dir, bundle_dir, ExportConfig(name="digits"))))
    heading("3. Evaluate on the test split, which has chosen nothing")
    print(table(evaluate(bundle_dir)))
    heading("4. Serve, and ask for images that were held out")
    files, labels = write_images(bundle_dir, images_dir)
    port = free_port(PORT) if demo.port is None else demo.port
    with server_process(bundle_dir, "--port", str(port)) as (server, url):
        answer = predict_with_url(url, files, [file.read_bytes() for file in files], top=2)
        right = 0
        for file, label, one in zip(files, labels, answer["predictions"], strict=True):
            first, second = one["top"]
            right += first["class"] == label
            mark = "right" if first["class"] == label else "WRONG"
            print(
                f"  {file}: {first['class']} with {first['probability']:6.1%}, "
                f"then {second['class']} with {second['probability']:5.1%}, members disagree by "
                f"{one['uncertainty']['disagreement_nats']:.3f} nats   {mark}"
            )
        print(f"\n{time.monotonic() - started:.0f} s. Ask it yourself:\n")
        print(f"  curl -H 'Content-Type: image/png' --data-binary @{files[0]} {url}/predict")
        print(f"  or open {url}/ in a browser\n", flush=True)
        if once:
            return 0 if right >= 8 else 1
        print("Serving until Ctrl-C.", flush=True)
        try:
            return server.wait()
        except Stopped:
            return 0


def demo_config(run_dir: Path, seed: int = 0) -> "TrainConfig":
    """What `train` does by default, with a network so small that it takes a minute.

    `benchmarks/training/budgets.py --digits` measures what the ensemble gains.
    """
    from snapensemble.trainer.config import TrainConfig

    # So small a network gains nothing from more threads, and gives the same everywhere.
    return TrainConfig(data="digits", out=run_dir, model="tiny", seed=seed, threads=1)


def remove_former(directory: Path, proof: str) -> None:
    """Remove a directory that an earlier demo has made, and no other.

    Raises:
        InvalidConfig: the directory holds something else, and no demo was killed at its start.
    """
    from snapensemble.trainer.recording.run_directory import holds_nothing

    if not directory.exists():
        return
    if (directory / proof).is_file() or not any(directory.iterdir()):
        shutil.rmtree(directory)
    elif not holds_nothing(directory):
        raise InvalidConfig(
            f"{directory} exists and was not made by the demo (no {proof}); choose another --out"
        )


def write_images(bundle_dir: Path, images_dir: Path) -> tuple[list[Path], list[str]]:
    """Write the first held-out image of each class as a PNG file; the files, and their classes."""
    from PIL import Image

    from snapensemble.evaluate import bundle_data

    bundle = read_bundle(bundle_dir)
    test = bundle_data(bundle)
    images_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for label, name in enumerate(bundle.classes):
        image_CHW = test.images_NCHW[test.labels_N == label][0]
        buffer = io.BytesIO()
        Image.fromarray(image_CHW[0]).save(buffer, "PNG")
        files.append(images_dir / f"digit-{name}.png")
        files[-1].write_bytes(buffer.getvalue())
    return files, list(bundle.classes)


def free_port(wanted: int) -> int:
    """`wanted`, or 0 (any free one) if something listens there already."""
    try:
        socket.create_server(("127.0.0.1", wanted)).close()
    except OSError:
        print(f"port {wanted} is taken; using a free one")
        return 0
    return wanted


def heading(text: str) -> None:
    """Print a line that sets a step apart."""
    print(f"\n== {text}", flush=True)
