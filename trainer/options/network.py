"""NetworkOptions: what is trained, on what, and what it begins with."""

from pathlib import Path

from pydantic import Field

from snapensemble.contracts.options import Options
from snapensemble.trainer.data.dataset import SPECS
from snapensemble.trainer.options.schedule import Whole

HUB = "hub"  # `pretrained`: the published weights, not a file
FRESH = "none"  # `pretrained`: random weights, where published ones are the default


class NetworkOptions(Options):
    """The images, the run directory and the network."""

    data: str = Field(description=SPECS, json_schema_extra={"metavar": "SPEC"})
    out: Path = Field(
        description="a new directory for the run", json_schema_extra={"metavar": "RUN_DIR"}
    )
    model: str | None = Field(
        None,
        description="network; docs/networks.md lists them (small up to 16 pixels, resnet20 above)",
    )
    pretrained: str | None = Field(
        None,
        description="begin with published weights, those of a FILE, or none (published for "
        "efficientnet-lite, if the extra pretrained is installed; none for the others)",
        json_schema_extra={"metavar": "FILE", "const": HUB},
    )
    tune: str | None = Field(
        None,
        description="what is trained of a pretrained network: all, or a stage such as stage7 and "
        "what follows it, or the head; the rest is computed once (stage7 of efficientnet-lite)",
        json_schema_extra={"metavar": "STAGE"},
    )
    views: Whole = Field(
        4, description="with a stage to tune: random parts of each picture that are computed"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="with --tune all: the rate of each stage is this share of the next one's",
    )

    @property
    def fine_tunes(self) -> bool:
        """Whether training begins with pretrained weights."""
        return self.pretrained not in (None, FRESH)
