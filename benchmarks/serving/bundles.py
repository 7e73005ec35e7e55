"""The flags, bundles and pictures that the serving benchmarks share."""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pipeline import png
from benchmarks.random_members import random_bundle
from snapensemble.bench.pictures import Pictures, noise, read_pictures
from snapensemble.contracts.bundle import BUNDLE_FILE, read_bundle
from snapensemble.contracts.pixels import SUFFIXES
from snapensemble.evaluate import bundle_data, sample
from snapensemble.export.bundle import build_bundle
from snapensemble.export.config import ExportConfig

MOST = 256  # pictures


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Flags that the serving benchmarks share."""
    parser.add_argument(
        "source", type=Path, metavar="DIR", help="a bundle, or a run whose best members to export"
    )
    parser.add_argument("--members", type=int, default=5, help="of a run (5)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pictures", type=Path, metavar="DIR", help="to send (noise as PNG)")
    which.add_argument(
        "--test-images",
        action="store_true",
        help=f"send {MOST} of the test split that the run knows; a cascade finds noise difficult",
    )
    parser.set_defaults(resnet20=False)
    parser.add_argument("--name", default=name, help=f"of the result files ({name})")


def add_random(parser: argparse.ArgumentParser) -> None:
    """A flag for members that need no training."""
    parser.add_argument(
        "--resnet20", action="store_true", help="five with random weights instead of DIR's"
    )


@contextlib.contextmanager
def bundle_of(args: argparse.Namespace) -> Iterator[Path]:
    """The bundle directory that the flags mean; one that is made for them is removed on leaving."""
    if args.resnet20:
        with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
            yield random_bundle(Path(work) / "bundle")
        return
    if (args.source / BUNDLE_FILE).is_file():
        yield args.source
        return
    with tempfile.TemporaryDirectory(prefix="snapensemble-bench-") as work:
        bundle_dir = Path(work) / "bundle"
        config = ExportConfig(members=args.members, select="best", report=False)
        build_bundle(args.source, bundle_dir, config)
        yield bundle_dir


def pictures_of(args: argparse.Namespace, bundle_dir: Path) -> Pictures:
    """The files of `--pictures` and the folders in it, at most 256; test images; or noise."""
    bundle = read_bundle(bundle_dir)
    image = bundle.image
    if args.test_images:
        images_NCHW = sample(bundle_data(bundle), MOST).images_NCHW
        encoded = [png(image_CHW) for image_CHW in images_NCHW]
        source = f"{len(encoded)} test images, {image.width} x {image.height}, PNG"
        return Pictures(encoded, list(images_NCHW), source)
    if args.pictures is None:
        return noise(image)
    files = [file for file in sorted(args.pictures.rglob("*")) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise SystemExit(f"{args.pictures} holds no picture files")
    return read_pictures(files[:: max(1, len(files) // MOST)][:MOST], image)
