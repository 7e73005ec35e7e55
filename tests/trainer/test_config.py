import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import build
from snapensemble.trainer.cli import build_config
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.options.schedule import SCHEDULES, SYMBOLS

# Names that are words too; messages have them as such.
ENGLISH = {"cycles", "epochs", "schedule", "out", "data", "model", "warmup"}


def config(**values: Any) -> TrainConfig:
    return build(TrainConfig, {"data": "digits", "out": Path("x"), **values})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cycles", 0),
        ("cycles", "three"),
        ("epochs", 10_001),
        ("cycle_epochs", 0),
        ("t_mult", 0),
        ("t_mult", 0.99),
        ("first_cycle_epochs", 0),
        ("lr_max", 0.0),
        ("lr_max", float("inf")),
        ("lr_min", 0.2),
        ("lr_max_decay", 1.1),
        ("batch_size", 1),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("val_fraction", 1.0),
        ("seed", -1),
        ("seed", 2**32),
        ("threads", 0),
        ("image_size", 0),
        ("precision", "fp64"),
        ("out", None),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_flag(name: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=f"--{name.replace('_', '-')}.*{value}"):
        config(**{name: value})


def test_epochs_make_cycles() -> None:
    assert config(epochs=30, cycle_epochs=10, t_mult=2).cycle_count == 2
    assert config(epochs=30, cycle_epochs=10).cycle_count == 3
    assert config().cycle_count == 5
    assert config(epochs=45, first_cycle_epochs=20, t_mult=1.5).cycle_lengths == [20, 10, 15]


def test_cycles_and_epochs_together_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="either --cycles or --epochs, not both"):
        config(cycles=2, epochs=20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_min": 0.2}, "--lr-min must be at least 0 and below --lr-max, got 0.2 and 0.1"),
        ({"schedule": "plateau", "lr_min": 1}, "--lr-min must be .* below --lr-max, got 1.0 and"),
        (
            {"cycles": 5, "warmup_epochs": 10},
            "--warmup-epochs must be shorter than the first cycle, got 10 of",
        ),
        (
            {"cycles": 5, "lr_max_decay": 0.5, "lr_min": 0.05},
            "not above --lr-min 0.05; .*--lr-max-decay",
        ),
        (
            {"epochs": 15, "cycle_epochs": 10},
            r"15 epochs ends inside a cycle \(--cycle-epochs 10, --t-mult 1\); .* 10 or",
        ),
        (
            {"epochs": 31, "first_cycle_epochs": 20, "t_mult": 1.5},
            r"\(--first-cycle-epochs 20, --cycle-epochs 10, --t-mult 1.5\); .* 30 or 45$",
        ),
        (
            {"first_cycle_epochs": 3, "warmup_epochs": 3},
            "--warmup-epochs must be shorter than the first cycle, got 3 of 3",
        ),
        ({"t_mult": 9, "cycles": 99}, "99 cycles with --t-mult 9 never end"),
        (
            {"schedule": "hypergradient", "lr_start": 0.2},
            "--lr-start must be above 0 and at most --lr-max, got 0.2 and 0.1",
        ),
        (
            {"schedule": "hypergradient", "hyper_rule": "multiplicative", "hyper_lr": 1.0},
            "--hyper-lr must be below 1 for the multiplicative rule, got 1.0",
        ),
        ({"crop_padding": 1, "random_resized_crop": 0.5}, "--crop-padding or --random-resized"),
        ({"lr_min": 0.1, "schedule": "step"}, "--lr-min belongs to the schedule sgdr or cosine or"),
        (
            {"layer_decay": 0.8, "schedule": "hypergradient"},
            "--layer-decay gives stages rates of their own, and --schedule hypergradient moves one",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_called_by_their_flags(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        config(**values)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (
            "lr_min = 0.3",
            {},
            r"^lr_min in \S+c.toml must be at least 0 and below --lr-max, got 0.3",
        ),
        (
            "lr_min = 0.3",
            {"lr_max": "0.2"},
            r"^lr_min in \S+ must .* below --lr-max, got 0.3 and 0.2",
        ),
        (
            "lr_max = 0.3",
            {"lr_min": "0.5"},
            r"^--lr-min must .* below lr_max in \S+c.toml, got 0.5",
        ),
        ("lr_min = 0.3", {"lr_min": "0.5"}, "^--lr-min must .* below --lr-max, got 0.5 and 0.1"),
        (
            "cycles = 3\nepochs = 10",
            {},
            r"^give either cycles in \S+c.toml or epochs in \S+c.toml, not",
        ),
        (
            "cycles = 0",
            {},
            r"^cycles in \S+c.toml: expected a whole number, from 1 to ",
        ),
        ("seed = 1", {"seed": "-1"}, "^--seed: expected a whole number, from 0 to .* got '-1'$"),
    ],
)
def test_a_setting_of_a_file_is_called_by_its_key(
    tmp_path: Path, text: str, flags: dict[str, Any], message: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InvalidConfig, match=message):
        build_config({"data": "digits", "out": "x", **flags}, tmp_path / "c.toml")


NUMBERS = [
    name
    for name, field in TrainConfig.model_fields.items()
    if re.search("int|float", str(field.annotation))
]


@settings(max_examples=500)
@given(
    st.sampled_from(SCHEDULES),
    st.dictionaries(
        st.sampled_from(NUMBERS), st.sampled_from(["-1", "0", "0.5", "1", "99"]), max_size=4
    ),
)
def test_no_message_has_a_symbol_of_the_papers_or_a_name_of_a_field(
    schedule: str, values: dict[str, str]
) -> None:
    try:
        config(schedule=schedule, **values)
    except InvalidConfig as error:
        words = set(re.findall(r"\w+", re.sub("--[a-z-]+", "", str(error))))
        assert not words & ({*SYMBOLS, *TrainConfig.model_fields} - ENGLISH), error


def test_a_missing_name_is_asked_for() -> None:
    with pytest.raises(InvalidConfig, match="--data is required"):
        build_config({"out": "x"})
