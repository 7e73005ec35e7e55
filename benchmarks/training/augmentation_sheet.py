"""One picture that shows what each augmentation makes of a few others, to be looked at.

    python -m benchmarks.training.augmentation_sheet --folder DIR --out sheet.png

A row for each flag, with pictures as batches would have them, and one for each operation of
TrivialAugment at its strongest; the first row is the pictures themselves.

Shapes: B images, C channels, H height, W width.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from snapensemble.contracts.pixels import SUFFIXES
from snapensemble.trainer.augmentation.batch import Augmentation, augment, draw_augmentation
from snapensemble.trainer.augmentation.mixing import Mixing, draw_mixing, mixed, partners
from snapensemble.trainer.augmentation.trivial import BINS, Operation, trivially_augmented

PICTURES, SIDE, GAP, MARGIN = 8, 96, 4, 190  # pixels but for the first
FLAGS = {
    "--trivial-augment": Augmentation(trivial=True),
    "--color-jitter 0.4": Augmentation(jitter=0.4),
    "--random-erasing 1": Augmentation(erasing=1.0),
    "--random-resized-crop 0.35": Augmentation(min_area=0.35),
}
PAIRS = {"--mixup 0.2": Mixing(mixup=0.2), "--cutmix 1": Mixing(cutmix=1.0)}


def main() -> None:
    """Augment, put the rows below each other, and write the file."""
    args = _arguments()
    images_BCHW = some_pictures(args.folder)
    count, mean_C = len(images_BCHW), images_BCHW.float().mean(dim=(0, 2, 3)).to(torch.uint8)
    rows = {"as they are": images_BCHW}
    for name, how in FLAGS.items():
        numbers = torch.Generator().manual_seed(args.seed)
        rows[name] = augment(images_BCHW, draw_augmentation(count, how, numbers), mean_C)
    for name, mixing in PAIRS.items():
        draws = draw_mixing(count, mixing, torch.Generator().manual_seed(args.seed))
        chosen = partners(slice(0, count), count)
        rows[name], pairs = mixed(images_BCHW[chosen], chosen, draws)
        print(name, "share of the first:", " ".join(f"{x:.2f}" for x in pairs.share_B.tolist()))
    sign_B = 1 - 2 * (torch.arange(count) % 2)
    for operation in Operation:
        fixed = torch.tensor([[operation], [BINS - 1]]).expand(2, count)
        draws_3B = torch.cat([fixed, sign_B[None]])
        rows[operation.name.lower()] = trivially_augmented(images_BCHW, draws_3B)
    sheet(rows).save(args.out)
    print(args.out)


def some_pictures(folder: Path) -> Tensor:
    """images_BCHW: square pictures from all over a folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]
    chosen = [files[i * len(files) // PICTURES] for i in range(PICTURES)]
    arrays = [
        np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))).transpose(2, 0, 1)
        for file in chosen
    ]
    return torch.from_numpy(np.stack(arrays))


def sheet(rows: dict[str, Tensor]) -> Image.Image:
    """The rows below each other, each with its name in front."""
    step = SIDE + GAP
    page = Image.new("RGB", (MARGIN + PICTURES * step, len(rows) * step), "white")
    pen = ImageDraw.Draw(page)
    for row, (name, images_BCHW) in enumerate(rows.items()):
        pen.text((8, row * step + SIDE // 2), name, fill="black")
        for column, image_CHW in enumerate(images_BCHW):
            image = Image.fromarray(image_CHW.permute(1, 2, 0).numpy())
            page.paste(image, (MARGIN + column * step, row * step))
    return page


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
