"""What the networks with published weights take."""

from snapensemble.contracts.pixels import ImageContract


def lite_contract(height: int = 64, width: int | None = None, channels: int = 3) -> ImageContract:
    """Images, square unless a width is given, with the normalisation of EfficientNet-Lite."""
    return ImageContract(
        channels=1 if channels == 1 else 3,
        height=height,
        width=height if width is None else width,
        mean=(127 / 255,) * channels,
        std=(128 / 255,) * channels,
    )
