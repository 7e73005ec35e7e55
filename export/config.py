"""Everything that decides what an export makes of a run, validated."""

import re
from dataclasses import dataclass
from typing import Literal

from contracts.bundle import Rule
from contracts.errors import InvalidConfig
from contracts.figures import Metric
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
    max_int8_accuracy_drop: float = 0.005
    max_int8_nll_rise: float = 0.05
    min_int8_agreement: float = 0.97
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
        for setting in ("max_int8_accuracy_drop", "min_int8_agreement", "max_accuracy_drop"):
            value = getattr(self, setting)
            if not 0 <= value <= 1:
                raise InvalidConfig(f"{_flag(setting)} is a fraction from 0 to 1, got {value}")
        for setting in ("max_int8_nll_rise", "max_nll_rise"):
            value = getattr(self, setting)
            if not 0 <= value < float("inf"):
                raise InvalidConfig(
                    f"{_flag(setting)} is a relative rise, such as 0.01, got {value}"
                )


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


DEFAULTS = ExportConfig()
