"""How many pictures of a folder are answered in a second: `predict`, a server, and a plain loop.

    python -m benchmarks.serving.predict_many BUNDLE_DIR [--pictures FOLDER] [--count 10000]

All three read the same files, decode them in the same way and write a line of JSON for each. The
server has a client of the kind that `snapensemble bench` uses, with many connections; the plain
loop is what one writes first: batches of 32 through ONNX Runtime's own threads. They take turns.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.machine import save, spread
from benchmarks.serving.bundles import MOST
from snapensemble.bench.http_load import HttpClient
from snapensemble.bench.pictures import noise
from snapensemble.contracts.bundle import BundleManifest, read_bundle
from snapensemble.contracts.cpu import cpu_budget
from snapensemble.contracts.metrics import softmax
from snapensemble.many.files import Pictures
from snapensemble.many.options import ManyOptions
from snapensemble.many.run import predict_many
from snapensemble.server_process import server_process
from snapensemble.serving.http.schemas import PredictOptions

BATCH = 32
QUERY = "top=5&probabilities=false"


def main() -> None:
    """Measure the three ways in turns, and write figures and their ratios."""
    parser = argparse.ArgumentParser(description="Images a second of a folder, in three ways.")
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="(noise as PNG)")
    parser.add_argument("--count", type=int, default=10_000, help="pictures; files are repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32, help="of the server's client")
    parser.add_argument("--name", default="predict-many", help="of the result files")
    args = parser.parse_args()
    bundle = read_bundle(args.bundle_dir)
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
        folder = folder_of(args.pictures, bundle, args.count, Path(work) / "pictures")
        files = list(Pictures([str(folder)]))
        mean_kib = sum(Path(file).stat().st_size for file in files) / max(1, len(files)) / 1024
        out = Path(work) / "rows.jsonl"
        with server_process(args.bundle_dir, "--port", "0") as (_, url):
            ways: dict[str, Callable[[], object]] = {
                "predict": lambda: by_predict(args.bundle_dir, folder, out),
                "server": lambda: asyncio.run(by_server(url, files, args.connections, out)),
                "plain loop": lambda: by_loop(args.bundle_dir, bundle, files, out),
            }
            rates = measured(ways, len(files), args.rounds)
    ratios = {
        way: [mine / other for mine, other in zip(rates["predict"], rates[way], strict=True)]
        for way in rates
    }
    table: list[tuple[str, ...]] = [("way", "images/s", "predict is so many times as fast")]
    table += [(way, spread(rates[way], ",.0f"), spread(ratios[way], ".2f")) for way in rates]
    save(
        args.name,
        {
            "bundle": bundle.name,
            "members": len(bundle.members),
            "model": bundle.model,
            "images": args.count,
            "mean_kib": mean_kib,
            "cores": cpu_budget(),
            "connections": args.connections,
            "images_per_second": rates,
            "ratios": ratios,
        },
        table,
    )


def measured(
    ways: dict[str, Callable[[], object]], count: int, rounds: int
) -> dict[str, list[float]]:
    """Images a second of each way, round by round; a round before them counts for nothing."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            started = time.monotonic()
            run()
            if number:
                rates[way].append(count / (time.monotonic() - started))
    return rates


def folder_of(pictures: Path | None, bundle: BundleManifest, count: int, work: Path) -> Path:
    """A folder of so many files: those that are there, or noise, again and again."""
    work.mkdir()
    if pictures is None:
        sources: Sequence[bytes | Path] = noise(bundle.image).encoded
    else:
        sources = [Path(file) for file in itertools.islice(Pictures([str(pictures)]), 4 * MOST)]
    for number, source in zip(range(count), itertools.cycle(sources), strict=False):
        parent = work / f"{number // 1000:03d}"
        parent.mkdir(exist_ok=True)
        if isinstance(source, bytes):
            (parent / f"{number:07d}.png").write_bytes(source)
        else:
            shutil.copy(source, parent / f"{number:07d}{source.suffix}")
    return work


def by_predict(bundle_dir: Path, folder: Path, out: Path) -> None:
    """What `snapensemble predict FOLDER --bundle BUNDLE_DIR --out FILE` does, with its start."""
    predict_many(
        [str(folder)],
        bundle_dir,
        ManyOptions(out=out),
        PredictOptions(),
        max_image_cost=1.0,
        restart=True,
        describe=lambda *_: "",
    )


async def by_server(url: str, files: Sequence[str], connections: int, out: Path) -> None:
    """Ask a server that runs already, over many connections."""
    client, left = HttpClient(url), iter(files)
    with out.open("w") as lines:

        async def ask() -> None:
            for file in left:
                request = client.request(
                    "POST", f"/predict?{QUERY}", Path(file).read_bytes(), "application/octet-stream"
                )
                reply = await client.exchange(request)
                if reply.status != 200:
                    raise SystemExit(f"{file}: the server answered {reply.status}")
                (found,) = json.loads(reply.body)["predictions"]
                lines.write(json.dumps({"path": file, **found}) + "\n")

        await asyncio.gather(*(ask() for _ in range(connections)))
    await client.close()


def by_loop(bundle_dir: Path, bundle: BundleManifest, files: Sequence[str], out: Path) -> None:
    """Decode a batch, run one member after the other, average, write; then the next batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_budget()  # its own default are the machine's
    parts = [onnxruntime.InferenceSession(bundle_dir / part.file, options) for part in bundle.parts]
    trunk = None if bundle.trunk is None else parts.pop(0)
    weights = np.array([member.weight for member in bundle.members])
    with out.open("w") as lines:
        for batch in _batches(files):
            inputs_B: NDArray[Any] = np.stack(
                [bundle.image.decode(Path(file).read_bytes()) for file in batch]
            )
            if trunk is not None:
                inputs_B = _run(trunk, inputs_B)
            logits_MBK = np.stack([_run(member, inputs_B) for member in parts])
            probs_BK = np.tensordot(weights, softmax(logits_MBK), 1)
            for file, probs_K in zip(batch, probs_BK, strict=True):
                k = int(probs_K.argmax())
                row = {"path": file, "class": bundle.classes[k], "probability": float(probs_K[k])}
                lines.write(json.dumps(row) + "\n")


def _run(session: onnxruntime.InferenceSession, inputs_B: NDArray[Any]) -> NDArray[np.float32]:
    (name,) = (value.name for value in session.get_inputs())
    outputs_B: NDArray[np.float32] = session.run(None, {name: inputs_B})[0]
    return outputs_B


def _batches(files: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(files), BATCH):
        yield files[start : start + BATCH]


if __name__ == "__main__":
    main()
