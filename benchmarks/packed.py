"""A data set of small images as one file that travels: every image as WebP.

    python -m benchmarks.packed --data cifar10:DIR --out cifar10.npz
    python -m benchmarks.packed --data cifar10:DIR --out cifar10.npz --quality lossless

CIFAR-10 has 176 MiB. Lossless WebP makes about 102 MiB of it, a quality of 95 about 42; the program
says how large the file is and how far its images are from the originals. `unpacked` makes of it
what `--data npz:FILE` takes.

Shapes: N images, C channels, H height, W width.
"""

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import markdown
from benchmarks.training.snapshots import save_parts
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.trainer.data.dataset import load_dataset
from snapensemble.trainer.data.readers import Split

LOSSLESS = "lossless"
MOST_BYTES = 45 * 2**20
PARTS = ("train", "val", "test")


def main() -> None:
    """Pack a data set; say how large the file is and what was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="SPEC")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.npz")
    parser.add_argument("--quality", default="95", help=f"1 to 100 (95), or {LOSSLESS}")
    parser.add_argument("--images", type=int, help="only so many of each part")
    args = parser.parse_args()
    error = packed(args.data, args.out, args.quality, args.images)
    size = args.out.stat().st_size
    rows: list[tuple[str, ...]] = [("WebP", "MiB", "bytes", "mean squared error", "PSNR")]
    psnr = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "as the originals"
    quality = args.quality if args.quality == LOSSLESS else f"quality {args.quality}"
    rows.append((quality, f"{size / 2**20:.1f}", f"{size:,}", f"{error:.2f}", psnr))
    print(markdown(rows))
    if size > MOST_BYTES:
        raise SystemExit(
            f"{args.out} has {size / 2**20:.1f} MiB, and {MOST_BYTES >> 20} may travel; "
            "take a lower --quality"
        )


def packed(spec: str, out: Path, quality: str = "95", images: int | None = None) -> float:
    """Write a data set as one file; give the mean squared error of its values, from 0 to 255.

    Raises:
        InvalidConfig: the quality is none, or the images are not in colour.
        InvalidData: the data set cannot be used.
    """
    if quality != LOSSLESS and not (quality.isdecimal() and 1 <= int(quality) <= 100):
        raise InvalidConfig(f"--quality: expected 1 to 100, or {LOSSLESS}, got {quality!r}")
    dataset = load_dataset(spec, val_fraction=0.1, split_seed=0)
    arrays: dict[str, Any] = {"classes": np.array(dataset.classes)}
    errors = []
    for name in PARTS:
        part = dataset.part(name)
        images_NCHW = part.images_NCHW[:images]
        if images_NCHW.shape[1] != 3:
            raise InvalidConfig(f"{spec} is not in colour, and WebP always is")
        files = [webp(image_CHW, quality) for image_CHW in images_NCHW]
        arrays[f"files_{name}"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"sizes_{name}"] = np.array([len(file) for file in files], np.int32)
        arrays[f"y_{name}"] = part.labels_N[:images].astype(np.uint8)
        again_NCHW = pixels(arrays, name)
        errors.append(np.mean((again_NCHW.astype(np.float32) - images_NCHW) ** 2))
    np.savez(out, **arrays)
    return float(np.mean(errors))


def unpacked(file: Path, out: Path, images: int | None = None) -> str:
    """Write what was packed as an .npz file of pixels; give the `--data` that it is.

    Args:
        file: made by `packed`.
        out: a file of about 180 MB for CIFAR-10.
        images: only so many of each part.
    """
    with np.load(file) as arrays:
        parts = {
            name: Split(pixels(arrays, name, images), arrays[f"y_{name}"][:images].astype(np.int64))
            for name in PARTS
        }
        save_parts(out, tuple(map(str, arrays["classes"])), **parts)
    return f"npz:{out}"


def webp(image_CHW: NDArray[np.uint8], quality: str) -> bytes:
    """One image as the bytes of a WebP file."""
    buffer = io.BytesIO()
    how: dict[str, Any] = {"quality": 100 if quality == LOSSLESS else int(quality), "method": 6}
    image = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
    image.save(buffer, "WEBP", lossless=quality == LOSSLESS, **how)
    return buffer.getvalue()


def pixels(arrays: Any, name: str, images: int | None = None) -> NDArray[np.uint8]:
    """images_NCHW of a part that is packed."""
    data, sizes_N = arrays[f"files_{name}"].tobytes(), arrays[f"sizes_{name}"]
    ends_N = np.cumsum(sizes_N)

    def one(end_and_size: tuple[int, int]) -> NDArray[np.uint8]:
        end, size = end_and_size
        with Image.open(io.BytesIO(data[end - size : end])) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:  # the decoder lets go of the interpreter's lock
        return np.stack(list(pool.map(one, zip(ends_N[:images], sizes_N[:images], strict=True))))


if __name__ == "__main__":
    main()
