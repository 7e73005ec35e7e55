"""What fine-tuning does where nothing else is said."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.pixels import MAX_SIDE
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.fine_tuning.defaults import (
    large_size,
    with_defaults,
    with_pretrained,
    with_rates,
)
from snapensemble.trainer.models.pretrained import PUBLISHED, Published

LITE = "efficientnet-lite0"
# Values that fine-tuning never chooses by itself.
UNUSUAL: dict[str, Any] = {
    "tune": "head",
    "restart_from": "previous",
    "weight_decay": 0.0,
    "frozen_statistics": False,
    "clip_norm": 7.0,
    "image_size": 96,
    "random_resized_crop": 0.8,
    "lr_max": 0.5,
    "warmup_epochs": 0,
}


def config(data: str = "photographs", **settings: Any) -> TrainConfig:
    return TrainConfig(data=data, out=Path("run"), **settings)


def tuned(**settings: Any) -> TrainConfig:
    return config(**{"model": LITE, "pretrained": "hub", **settings})


def published(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(PUBLISHED, LITE, Published(package, "weights.pth", "0" * 64))


def test_a_network_whose_weights_are_not_installed_begins_with_random_ones_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published(monkeypatch, "no_such_package")
    found = with_pretrained(config(model=LITE))
    assert found.pretrained == "none" and not found.fine_tunes
    message = capsys.readouterr().err
    assert f"warning: {LITE} begins with random weights: the package no-such-package" in message
    assert "pip install 'snapensemble[pretrained]'" in message and "--pretrained none" in message


def test_a_network_whose_weights_are_installed_begins_with_them_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published(monkeypatch, "snapensemble")  # a package that is there
    found = with_pretrained(config(model=LITE))
    assert found.pretrained == "hub" and found.fine_tunes
    assert capsys.readouterr().err.endswith(
        f"{LITE} begins with its ImageNet weights, from snapensemble\n"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "resnet20"},
        {"model": "timm:resnet18"},
        {"model": LITE, "pretrained": "none"},
        {"model": LITE, "pretrained": "hub"},
        {"model": LITE, "pretrained": "weights.pth"},
    ],
)
def test_who_says_where_to_begin_or_takes_another_network_is_obeyed_silently(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = config(**settings)
    assert with_pretrained(given) == given
    assert not capsys.readouterr().err


@pytest.mark.parametrize("data", ["photographs", "digits"])
@pytest.mark.parametrize("pretrained", [None, "none"])
def test_nothing_changes_without_pretrained_weights(data: str, pretrained: str | None) -> None:
    for settings in ({}, {"model": LITE}, {"schedule": "cosine"}, {"tune": "all"}):
        given = config(data, pretrained=pretrained, **settings)
        assert with_defaults(given) == given
        assert with_rates(given) == given
        assert large_size(given) is None


@pytest.mark.parametrize("pretrained", [None, "none"])
@pytest.mark.parametrize("tune", ["head", "stage7"])
def test_a_part_of_a_network_without_pretrained_weights_is_refused(
    pretrained: str | None, tune: str
) -> None:
    with pytest.raises(InvalidConfig, match=f"--tune {tune} .* needs pretrained weights"):
        with_defaults(config(model=LITE, pretrained=pretrained, tune=tune))


def test_a_network_with_stages_is_tuned_from_its_last_one_and_another_as_a_whole() -> None:
    for name in PUBLISHED:
        assert with_defaults(tuned(model=name)).tune == "stage7"
    for other in ("timm:resnet18", "resnet20", None):
        assert with_defaults(tuned(model=other, pretrained="weights.pth")).tune == "all"


def test_only_sgdr_restarts_and_by_default_with_the_first_weights() -> None:
    several = {"cycles": 3, "cycle_epochs": 4}
    assert with_rates(with_defaults(tuned(**several))).is_star
    for other in (tuned(schedule="cosine", **several), tuned(cycles=1)):
        assert with_rates(with_defaults(other)).restart_from is None


def test_only_pictures_of_a_folder_get_a_size_and_are_shown_in_parts() -> None:
    found = with_defaults(tuned())
    assert (found.image_size, found.random_resized_crop) == (160, 0.35)
    shifted = with_defaults(tuned(crop_padding=4))
    assert (shifted.image_size, shifted.random_resized_crop) == (160, None)
    digits = with_defaults(tuned(data="digits"))
    assert (digits.image_size, digits.random_resized_crop) == (None, None)


@given(st.sets(st.sampled_from(sorted(UNUSUAL))))
def test_a_value_that_is_given_wins_over_the_default_and_moves_no_other(names: set[str]) -> None:
    given_values = {name: UNUSUAL[name] for name in names}
    cycles = {"cycles": 3, "cycle_epochs": 4}
    found = with_rates(with_defaults(tuned(**cycles, **given_values)))
    plain = with_rates(with_defaults(tuned(**cycles)))
    for name in UNUSUAL.keys() - {"lr_max"}:
        expected = given_values.get(name, getattr(plain, name))
        assert getattr(found, name) == expected and expected is not None, name
    others = TrainConfig.model_fields.keys() - UNUSUAL.keys()
    assert all(getattr(found, name) == getattr(plain, name) for name in others)
    if "lr_max" in names:
        assert found.lr_max == UNUSUAL["lr_max"]


@given(
    st.sampled_from(["all", "stage7", "head"]),
    st.sampled_from(["first", "previous"]),
    st.integers(1, 5),
)
def test_the_rate_is_that_of_the_whole_network_of_a_star_or_of_one_cycle(
    tune: str, restart_from: str, cycles: int
) -> None:
    found = with_rates(
        with_defaults(tuned(tune=tune, restart_from=restart_from, cycles=cycles, cycle_epochs=4))
    )
    if tune == "all":
        assert found.lr_max == 0.01
    elif restart_from == "first" and cycles > 1:
        assert found.lr_max == 0.1
    else:
        assert found.lr_max == 0.03


@pytest.mark.parametrize(
    ("settings", "warmup"),
    [
        ({"cycle_epochs": 4}, 1),
        ({"cycle_epochs": 1}, None),  # would be all of it
        ({"first_cycle_epochs": 1, "cycle_epochs": 9}, None),
        ({"schedule": "cosine", "cycle_epochs": 4}, 1),
        ({"schedule": "step", "cycle_epochs": 4}, None),
        ({"schedule": "plateau", "cycle_epochs": 4}, None),
    ],
)
def test_the_rate_climbs_for_an_epoch_where_the_first_cycle_has_more(
    settings: dict[str, Any], warmup: int | None
) -> None:
    assert with_rates(with_defaults(tuned(cycles=3, **settings))).warmup_epochs == warmup


@given(st.integers(1, MAX_SIDE))
def test_crops_are_cut_from_pictures_larger_than_what_the_network_gets(side: int) -> None:
    found = large_size(with_defaults(tuned(image_size=side)))
    assert found is not None
    assert min(side, MAX_SIDE) <= found <= MAX_SIDE
    assert found == MAX_SIDE or abs(found - 1.4 * side) <= 0.5


@pytest.mark.parametrize(
    "settings",
    [
        {"data": "digits", "random_resized_crop": 0.5},
        {"random_resized_crop": 1},
        {"crop_padding": 4},
        {"pretrained": "none"},
    ],
)
def test_pictures_that_are_not_cut_into_parts_are_kept_at_the_networks_size(
    settings: dict[str, Any],
) -> None:
    assert large_size(with_defaults(tuned(**settings))) is None


@pytest.mark.parametrize("tune", ["stage7", "head", None])
def test_features_of_pictures_are_not_cut(tune: str | None) -> None:
    with pytest.raises(InvalidConfig, match="--cutmix cuts pictures.* give --mixup"):
        with_defaults(tuned(cutmix=1.0, tune=tune))
    assert with_defaults(tuned(cutmix=1.0, tune="all")).cutmix == 1.0
    assert with_defaults(tuned(mixup=0.2, tune=tune)).mixup == 0.2
