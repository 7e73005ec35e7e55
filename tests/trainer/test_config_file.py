from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidConfig
from trainer.config import TrainConfig
from trainer.config_file import HINTS, kind_of, parsed, read_toml, run_config, to_toml

OUT = Path("out")


@given(
    st.text(min_size=1).filter(lambda text: "\0" not in text and not text.startswith("~")),
    st.floats(1e-6, 10),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.lists(st.integers(1, 29), max_size=4, unique=True).map(sorted),
)
def test_settings_come_back_as_they_were(
    data: str, lr: float, seed: int, switch: bool, steps: list[int]
) -> None:
    config = TrainConfig(
        data=f"npz:/{data}", out=OUT, schedule="step", lr_max=lr, seed=seed,
        flip=switch, tensorboard=switch, lr_steps=tuple(step / 30 for step in steps), epochs=30,
    )  # fmt: skip
    back = TrainConfig(**parsed(to_toml(config), Path("x")), out=OUT)
    assert replace(back, data=config.data) == config
    assert Path(back.data.removeprefix("npz:")) == Path(f"/{data}").resolve()


def test_every_setting_has_a_kind() -> None:
    kinds = {name: kind_of(name) for name in HINTS}
    assert set(kinds) == {field.name for field in fields(TrainConfig)}
    assert set(kinds.values()) == {str, int, float, bool, tuple, Path}
    assert (kinds["schedule"], kinds["lr_steps"], kinds["lr_max"]) == (str, tuple, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cycles = 2.5", "cycles must be int, got 2.5"),
        ("cycles = true", "cycles must be int, got True"),
        ('lr_max = "high"', "lr_max must be float"),
        ("lr_steps = 0.5", "lr_steps must be a list of numbers, got 0.5"),
        ('lr_steps = ["a"]', "lr_steps must be a list of numbers"),
        ("compile = 1", "compile must be bool"),
        ("speed = 9", "unknown setting 'speed'; known: data, out, schedule"),
        ("= 3", "Invalid statement"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=message):
        read_toml(file)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("lr_max = 1", {"lr_max": 1}),
        ('out = "a"', {"out": Path("a")}),
        ("lr_steps = [0.25, 0.5]", {"lr_steps": (0.25, 0.5)}),
    ],
)
def test_a_file_gives_settings_of_their_kind(text: str, settings: dict[str, Any]) -> None:
    assert parsed(text, Path("x")) == settings


def test_a_run_keeps_the_settings_it_was_started_with(digits_run: Path) -> None:
    expected = TrainConfig(data="digits", out=digits_run, cycles=3, cycle_epochs=2, threads=1)
    assert run_config(digits_run) == expected
    assert read_toml(digits_run / "config.toml")["cycles"] == 3
