"""Everything that decides what an export makes of a run, validated."""

import re
from dataclasses import dataclass, field
from typing import Literal

from contracts.bundle import Rule
from contracts.errors import InvalidConfig
from contracts.figures import Metric
from export.gate import Int8Limits
from export.select import Members

Quantize = Literal["none", "int8"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Fractions are in [0, 1]; rises are relative.

    Raises:
        InvalidConfig: a value is out of bounds; names the flag.
    """

    members: Members = None  # see export.select
    select: Rule = "best"
    metric: Metric = "nll"
    name: str | None = None  # of the model, as clients see it; the directory's name if not given
    data: str | None = None  # where the data set is now; where the run found it if not given
    quantize: Quantize = "none"
    int8: Int8Limits = field(default_factory=Int8Limits)
    cascade: bool = True
    max_accuracy_drop: float = 0.001  # of the cascade against the full ensemble
    max_nll_rise: float = 0.01  # likewise
    report: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.name is not None and not NAME.fullmatch(self.name):
            raise InvalidConfig(
                f"--name {self.name!r}: use letters, digits, '.', '_', '-', 64 at most"
            )
        if not 0 <= self.max_accuracy_drop <= 1:
            raise InvalidConfig(
                f"--max-accuracy-drop is a fraction from 0 to 1, got {self.max_accuracy_drop}"
            )
        if not 0 <= self.max_nll_rise < float("inf"):
            raise InvalidConfig(
                f"--max-nll-rise is a relative rise, such as 0.01, got {self.max_nll_rise}"
            )


DEFAULTS = ExportConfig()
