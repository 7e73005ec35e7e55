from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InvalidConfig
from trainer.cli import build_config
from trainer.config import TrainConfig


def config(**values: Any) -> TrainConfig:
    return TrainConfig(data="digits", out=Path("x"), **values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cycles", 0),
        ("epochs", 15),
        ("cycle_epochs", 0),
        ("t_mult", 0),
        ("lr_max", 0.0),
        ("lr_min", 0.2),
        ("batch_size", 1),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("val_fraction", 1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("threads", 0),
        ("image_size", 0),
    ],
)
def test_a_value_out_of_bounds_is_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidConfig):
        config(**{name: value})


def test_epochs_make_cycles() -> None:
    assert config(epochs=30, cycle_epochs=10, t_mult=2).cycle_count == 2
    assert config(epochs=30, cycle_epochs=10).cycle_count == 3
    assert config().cycle_count == 5


def test_cycles_and_epochs_together_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="not both"):
        config(cycles=2, epochs=20)


def test_a_missing_name_is_asked_for() -> None:
    with pytest.raises(InvalidConfig, match="--data is required"):
        build_config({"out": "x"})
