"""ImageOptions: how images are read, divided and augmented."""

from pydantic import Field, model_validator

from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.options import Options
from snapensemble.contracts.pixels import MAX_SIDE
from snapensemble.trainer.data.aspects import FitChoice
from snapensemble.trainer.data.decoding import MAX_IMAGE_COST

MAX_SEED = 2**32 - 1


class ImageOptions(Options):
    """From the files to what the network is shown."""

    image_size: int | None = Field(
        None,
        ge=1,
        le=MAX_SIDE,
        description="height and width in pixels; pictures only (64; 160 with pretrained weights)",
    )
    fit: FitChoice = Field(
        "auto",
        description="how a picture comes into the frame: cover (cut off evenly), pad (with white), "
        "or stretch; auto looks at the shapes of a folder's pictures, and covers photographs",
    )
    crop_padding: int | None = Field(
        None,
        ge=0,
        description="random shift in pixels (an eighth of the image's height, none below 16)",
    )
    flip: bool | None = Field(
        None, description="mirror half of the images (where a mirror image keeps its class)"
    )
    cutout: int = Field(
        0,
        ge=0,
        le=MAX_SIDE,
        description="side in pixels of a square that is removed from each image",
    )
    random_resized_crop: float | None = Field(
        None,
        gt=0,
        le=1,
        description="show random parts of at least this share of the area, not shifts "
        "(0.35 of pictures with pretrained weights)",
    )
    trivial_augment: bool = Field(
        False,
        description="change each image in one way, such as turned, shifted, darker or sharper, by "
        "a random amount",
    )
    color_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how far brightness, contrast and saturation may be from what they are: 0.4 is "
        "from 0.6 to 1.4 times",
    )
    random_erasing: float = Field(
        0.0, ge=0, le=1, description="share of the images that lose a rectangle of 2 to 33 %"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="blend each image with another one, the shares by Beta(ALPHA, ALPHA)",
        json_schema_extra={"metavar": "ALPHA"},
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="put a part of another image into each, of a size by Beta(ALPHA, ALPHA); with "
        "--mixup, half of the images",
        json_schema_extra={"metavar": "ALPHA"},
    )
    max_bad_images: int = Field(
        0, ge=0, description="unreadable pictures that are left out; more end the run"
    )
    max_image_cost: float = Field(
        MAX_IMAGE_COST,
        ge=1,
        le=10_000,
        description="what decoding a picture may cost, in times what a server accepts",
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of each class that validates")
    split_seed: int = Field(
        0,
        ge=0,
        le=MAX_SEED,
        description="which images validate; the same for runs that are compared",
    )

    @model_validator(mode="after")
    def _one_kind_of_crop(self) -> "ImageOptions":
        if self.random_resized_crop is not None and self.crop_padding:
            raise Misfit("give either {crop_padding} or {random_resized_crop}, not both")
        return self
