import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig, InvalidManifest
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import parsed, read_toml, run_config, to_toml

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
    assert back.model_copy(update={"data": config.data}) == config
    assert Path(back.data.removeprefix("npz:")) == Path(f"/{data}").resolve()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cycles = 2.5", "cycles in .*: expected a whole number, from 1 to .*, got 2.5"),
        ("cycles = true", "cycles in .*: expected a whole number, .* got True"),
        ("cycles = '3'", "cycles in .*: expected a whole number, .* got '3'"),
        ('lr_max = "high"', "lr_max in .*: expected a number, above 0, got 'high'"),
        ("lr_max = inf", "lr_max in .*: expected a finite number, above 0, got inf"),
        ("lr_steps = 0.5", "lr_steps in .*: expected a list, each a number, above 0 .*, got 0.5"),
        ('lr_steps = ["a"]', r"lr_steps in .*: expected a list, each a number, .*, got \['a'\]"),
        ("lr_steps = [0.5, 1]", r"lr_steps in .*above 0 and below 1, got \[0.5, 1\]"),
        ("compile = 1", "compile in .*: expected true or false, or auto, got 1"),
        ("data = 1979-05-27", "data in .*: expected a text, got datetime.date"),
        ("data = 3", "data in .*: expected a text, got 3"),
        ('schedule = "linear"', "schedule in .*: expected one of sgdr, cosine, .* got 'linear'"),
        ("speed = 9", "unknown setting 'speed'; known: data, out, model"),
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


def test_settings_without_an_end_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="/dev/zero: has more than 1,048,576 bytes"):
        read_toml(Path("/dev/zero"))


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
    expected = TrainConfig(
        data="digits",
        out=digits_run,
        cycles=3,
        cycle_epochs=2,
        threads=1,
        weight_decay=0.002,  # what so few images get is written down as a number
    )
    assert run_config(digits_run) == expected
    assert read_toml(digits_run / "config.toml")["cycles"] == 3


def test_a_run_without_settings_says_what_can_be_done_with_it(
    digits_run: Path, tmp_path: Path
) -> None:
    content = json.loads((digits_run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**content, "config": None}))
    with pytest.raises(InvalidManifest, match=r"export takes the cycles .* train again"):
        run_config(tmp_path)
