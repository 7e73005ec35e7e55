"""What do members on a shared trunk take, beside whole networks?

    python -m benchmarks.serving.shared_trunk BUNDLE_DIR     # a bundle with a trunk

Trunk and member are joined to whole networks, so that all ways give the same answers: one network,
all of them whole, and all members on the one trunk, as a cascade too if the bundle has one. Rates
are taken in turns with every lane busy, at micro-batches of 1 and of 16 images of noise; the time
of a lone image is taken while nothing else goes on. Ratios are those of one turn.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray

from benchmarks.export.price_of_one import images_per_second
from benchmarks.machine import save, spread
from snapensemble.contracts.bundle import BundleManifest, read_bundle, write_bundle
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.files import read_verified, write_atomically
from snapensemble.serving.inference.engine import Engine, Limits, load_engine

BATCHES = (1, 16)
ONE, WHOLE, SHARED, CASCADE = (
    "one network", "all networks, whole", "all members on the trunk", "the same as a cascade",
)  # fmt: skip
Turns = dict[str, list[float]]  # by way, one number per turn


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn (2)")
    parser.add_argument("--images", type=int, default=256, help="that are sent in turn (256)")
    parser.add_argument("--name", default="shared-trunk", help="of the result files")
    args = parser.parse_args()
    bundle = read_bundle(args.bundle_dir)
    if bundle.trunk is None:
        raise SystemExit(f"{args.bundle_dir} has no trunk; give a bundle whose members share one")
    shape = (args.images, *bundle.image.shape)
    images_NCHW = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
        dirs = {
            ONE: whole_networks(args.bundle_dir, bundle, Path(work) / "one", 1),
            WHOLE: whole_networks(args.bundle_dir, bundle, Path(work) / "all", len(bundle.members)),
            SHARED: args.bundle_dir,
        }
        if bundle.cascade is not None:
            dirs[CASCADE] = args.bundle_dir
        rates = {b: measure(dirs, b, images_NCHW, args.rounds, args.seconds) for b in BATCHES}
        lone_ms = measure(dirs, None, images_NCHW, args.rounds, args.seconds)
    price = None if bundle.price is None else bundle.price.in_single_networks
    figures = {
        "members": len(bundle.members),
        "model": bundle.model,
        "image": bundle.image.shape,
        "features": bundle.trunk.features,
        "operations_in_single_networks": price,
        "images_per_second": rates,
        "lone_image_ms": lone_ms,
    }
    save(args.name, figures, table(rates, lone_ms))


def whole_networks(source: Path, bundle: BundleManifest, out: Path, count: int) -> Path:
    """A bundle of the first so many members, each joined to a copy of the trunk."""
    assert bundle.trunk is not None
    (out / "members").mkdir(parents=True)
    trunk, *parts = (
        read_verified(source, part.file, part.sha256, part.size) for part in bundle.parts
    )
    members = []
    for member, data in zip(bundle.members[:count], parts, strict=False):
        whole = joined(trunk, data)
        update = {
            "sha256": write_atomically(out / member.file, whole),
            "size": len(whole),
            "weight": 1 / count,
        }
        members.append(member.model_copy(update=update))
    changes = {"trunk": None, "price": None, "cascade": None, "members": tuple(members)}
    write_bundle(out, bundle.model_copy(update=changes))
    return out


def joined(trunk_file: bytes, member_file: bytes) -> bytes:
    """The ONNX file of trunk and member together: `images` to `logits`."""
    parts = []
    for prefix, data in (("trunk/", trunk_file), ("member/", member_file)):
        model = onnx.load_from_string(data)
        del model.metadata_props[:]  # two files say different things of themselves
        kept = {value.name for value in (*model.graph.input, *model.graph.output)}
        named = onnx.compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)
        assert kept == {value.name for value in (*named.graph.input, *named.graph.output)}
        parts.append(named)
    trunk, member = parts
    whole = onnx.compose.merge_models(trunk, member, io_map=[("features", "features")])
    data = whole.SerializeToString()
    assert isinstance(data, bytes)
    return data


def measure(
    dirs: dict[str, Path],
    batch: int | None,
    images_NCHW: NDArray[np.uint8],
    rounds: int,
    seconds: float,
) -> Turns:
    """The images/s of every way at a micro-batch, or without one the ms of a lone image."""
    found: Turns = {way: [] for way in dirs}
    with ExitStack() as stack:
        engines = {
            way: stack.enter_context(load_engine(directory, Limits(max_batch_size=batch or 1)))
            for way, directory in dirs.items()
        }
        for turn in range(rounds + 1):
            for way, engine in engines.items():
                mode: Mode = "cascade" if way == CASCADE else "full"
                value = (
                    images_per_second(engine, mode, images_NCHW, batch, seconds)
                    if batch
                    else lone_image_ms(engine, mode, images_NCHW, seconds)
                )
                if turn:  # the first turn warms up
                    found[way].append(value)
    return found


def lone_image_ms(
    engine: Engine, mode: Mode, images_NCHW: NDArray[np.uint8], seconds: float
) -> float:
    """The median time of an image while nothing else goes on."""
    took_ms: list[float] = []
    end = time.monotonic() + seconds
    while (started := time.monotonic()) < end:
        image_CHW = images_NCHW[len(took_ms) % len(images_NCHW)]
        engine.submit([image_CHW], mode)[0].result()
        took_ms.append((time.monotonic() - started) * 1000)
    return float(np.median(took_ms))


def table(rates: dict[int, Turns], lone_ms: Turns) -> list[tuple[str, ...]]:
    """A row per way: rates, the time of a lone image, and each as times that of one network."""
    head = ["way"]
    for batch in BATCHES:
        head += [f"images/s, batch {batch}", "time, in networks"]
    rows: list[tuple[str, ...]] = [(*head, "lone image, ms", "time, in networks")]
    for way, times_ms in lone_ms.items():
        row = [way]
        for turns in rates.values():
            row.append(spread(turns[way], ",.0f"))
            times = [one / rate for one, rate in zip(turns[ONE], turns[way], strict=True)]
            row.append(spread(times, ".2f"))
        row.append(spread(times_ms, ".2f"))
        times = [ms / one for ms, one in zip(times_ms, lone_ms[ONE], strict=True)]
        rows.append((*row, spread(times, ".2f")))
    return rows


if __name__ == "__main__":
    main()
