"""A bundle of the size that the figures are about."""

from pathlib import Path

from contracts.pixels import ImageContract
from tests.factories import make_bundle

MEMBERS = 5
IMAGE = ImageContract(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)


def resnet20_bundle(directory: Path) -> Path:
    """Five ResNet-20 with random weights, for ten classes of 3x32x32."""
    import torch

    from export.convert import to_onnx
    from trainer.models import build_model

    files = []
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        files.append(to_onnx(build_model("resnet20", classes=10, image=IMAGE), IMAGE))
    return make_bundle(directory, files, image=IMAGE, classes=[f"class {k}" for k in range(10)])
