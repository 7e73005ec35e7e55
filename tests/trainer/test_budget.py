from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.run import (
    MIN_EPOCHS,
    MIN_UPDATES,
    ScheduleRecord,
    Weights,
    read_run,
)
from snapensemble.trainer.budget import (
    FEWEST_CYCLES,
    MIN_STAR_UPDATES,
    MOST_CYCLES,
    Pace,
    cycles_if_fitted,
    default_epochs,
    divided,
    epochs_within,
    shares,
    short_cycles,
    star_cycles,
)
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.config_file import run_config
from snapensemble.trainer.run import resume, train

OUT = Path("run")
epochs, steps = st.integers(1, 5_000), st.integers(1, 2_000)


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(data="digits", out=OUT, **settings)


def plan(settings: TrainConfig, steps_per_epoch: int, images: int = 10_000) -> TrainConfig:
    return divided(settings, images, steps_per_epoch, measure=unmeasured)


def unmeasured() -> Pace:
    raise AssertionError("nothing is to be measured without --minutes")


@given(epochs, steps)
def test_a_budget_is_one_cycle_and_no_epoch_is_lost(epochs: int, steps_per_epoch: int) -> None:
    found = plan(config(epochs=epochs), steps_per_epoch)
    assert found.cycle_lengths == [epochs] and not found.divides_itself
    assert short_cycles(found, steps_per_epoch) is None


@given(epochs, steps)
def test_cycles_after_a_trial_are_never_too_short_and_no_epoch_is_lost(
    epochs: int, steps_per_epoch: int
) -> None:
    lengths = cycles_if_fitted(epochs, steps_per_epoch)
    if not lengths:
        return
    assert sum(lengths) == epochs and len(set(lengths[1:])) == 1
    assert min(lengths) >= MIN_EPOCHS and min(lengths) * steps_per_epoch >= MIN_UPDATES
    assert FEWEST_CYCLES <= len(lengths) - 1 <= MOST_CYCLES


@given(epochs, steps)
def test_a_larger_budget_never_has_fewer_cycles(epochs: int, steps_per_epoch: int) -> None:
    fewer = cycles_if_fitted(epochs, steps_per_epoch)
    assert len(fewer) <= len(cycles_if_fitted(epochs + 1, steps_per_epoch))


def test_twenty_epochs_of_a_small_folder_are_one_cosine_run() -> None:
    assert plan(config(epochs=20), 32).cycle_lengths == [20]


def test_the_papers_budget_has_nearly_the_papers_cycles() -> None:
    # Huang et al. 2017, CIFAR: 5 of 40
    assert cycles_if_fitted(200, 390) == [36, *[41] * 4]
    assert cycles_if_fitted(139, 390) == []
    assert cycles_if_fitted(140, 390) == [35] * 4


def test_without_a_budget_there_are_fifty_epochs_or_4500_updates() -> None:
    assert sum(plan(config(), 352).cycle_lengths) == default_epochs(352) == 50
    assert sum(plan(config(), 25).cycle_lengths) == default_epochs(25) == 180


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        ({"cycles": 3}, [10] * 3),
        ({"cycle_epochs": 4}, [4] * 5),
        ({"cycles": 2, "cycle_epochs": 7}, [7, 7]),
        ({"epochs": 30, "cycle_epochs": 10}, [10] * 3),
        ({"epochs": 70, "t_mult": 2}, [10, 20, 40]),
        ({"cycles": 2, "first_cycle_epochs": 9}, [9, 10]),
        ({"schedule": "cosine"}, [10] * 5),
        ({"schedule": "step", "epochs": 40}, [10] * 4),
    ],
)
def test_who_says_how_long_cycles_are_is_obeyed(
    settings: dict[str, Any], lengths: list[int]
) -> None:
    assert plan(config(**settings), 5).cycle_lengths == lengths


def test_cycles_too_short_to_pay_are_warned_about_with_their_updates() -> None:
    warning = short_cycles(config(cycles=4, cycle_epochs=5), 32)
    assert warning is not None
    assert "the shortest of 4 cycles has 160 updates (5 epochs)" in warning
    assert warning.endswith("--epochs 20 alone restarts only where that pays")
    assert short_cycles(config(cycles=1, cycle_epochs=5), 32) is None
    assert short_cycles(config(schedule="step", cycles=4, cycle_epochs=5), 32) is None
    assert short_cycles(config(cycles=3, cycle_epochs=40), 25) is None
    assert short_cycles(config(cycles=3, cycle_epochs=40), 22) is not None  # 880 updates


def test_minutes_become_the_epochs_that_fit_and_are_written_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = divided(config(minutes=10), 10_000, 100, measure=lambda: Pace(5.4, 0.0))
    assert sum(found.cycle_lengths) == 100  # nine tenths of ten minutes
    assert (found.minutes, found.epochs, found.cycles) == (None, None, 1)
    three = divided(config(minutes=10, cycles=3), 10_000, 100, lambda: Pace(5.4, 0.0))
    assert three.cycle_lengths == [34, 33, 33]
    cosine = divided(config(minutes=10, schedule="cosine"), 10_000, 100, lambda: Pace(5.4, 0.0))
    assert cosine.cycle_lengths == [20] * 5
    assert not capsys.readouterr().err


def test_what_is_spent_already_and_the_cycles_end_leave_less_time() -> None:
    assert epochs_within(10, Pace(epoch=10.0, cycle_end=0.0)) == 54
    assert epochs_within(10, Pace(epoch=10.0, cycle_end=7.0, spent=34.0)) == 49


def test_an_epoch_longer_than_the_minutes_is_trained_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert epochs_within(1, Pace(120.0, 0.0)) == 1
    assert "one epoch takes 120.0 s here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", [{"epochs": 5}, {"cycle_epochs": 5}, {"first_cycle_epochs": 5}, {"t_mult": 1.5}]
)
def test_minutes_and_lengths_contradict_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="minutes"):
        config(minutes=5, **settings)


def test_a_warm_up_longer_than_the_cycle_is_refused_by_its_flag() -> None:
    with pytest.raises(InvalidConfig, match="--warmup-epochs"):
        divided(config(minutes=10, warmup_epochs=60), 10_000, 100, lambda: Pace(18.0, 0.0))


def test_few_images_from_scratch_get_a_stronger_weight_decay() -> None:
    assert plan(config(), 32, images=2_500).l2_penalty == 2e-3
    assert plan(config(), 32, images=2_501).l2_penalty == 5e-4
    assert plan(config(pretrained="hub"), 32, images=100).l2_penalty == 5e-4
    assert plan(config(weight_decay=1e-4), 32, images=100).l2_penalty == 1e-4


def test_fine_tuning_does_not_restart_but_as_a_star() -> None:
    tuned = {"pretrained": "hub", "epochs": 200}
    assert plan(config(**tuned), 100).cycle_lengths == [200]
    assert plan(config(**tuned, restart_from="previous"), 100).cycle_lengths == [200]
    assert plan(config(**tuned, restart_from="first"), 100).cycle_lengths == [100, 25, 25, 25, 25]


@given(epochs, steps, st.booleans())
def test_a_star_spends_half_on_its_first_cycle_and_every_epoch(
    epochs: int, steps_per_epoch: int, fine_tunes: bool
) -> None:
    settings = {"pretrained": "hub"} if fine_tunes else {}
    found = plan(config(epochs=epochs, restart_from="first", **settings), steps_per_epoch)
    first, *others = found.cycle_lengths
    assert sum(found.cycle_lengths) == epochs and not found.divides_itself
    assert 1 + len(others) == star_cycles(epochs, steps_per_epoch) <= MOST_CYCLES
    assert 2 * first >= epochs and len(set(others)) <= 1
    assert short_cycles(found, steps_per_epoch) is None


@given(st.integers(1, 100), st.integers(1, 60))  # where 25 updates matter
def test_later_cycles_of_a_star_are_long_enough_and_no_fewer_with_more_epochs(
    epochs: int, steps_per_epoch: int
) -> None:
    cycles = star_cycles(epochs, steps_per_epoch)
    _, others = shares(epochs, cycles, star=True)
    assert all(each * steps_per_epoch >= MIN_STAR_UPDATES for each in others)
    assert 1 <= cycles <= star_cycles(epochs + 1, steps_per_epoch) <= MOST_CYCLES


@given(epochs, st.integers(1, MOST_CYCLES), st.booleans())
def test_shares_lose_no_epoch(epochs: int, cycles: int, star: bool) -> None:
    first, others = shares(epochs, cycles, star=star)
    assert first + sum(others) == epochs and len(others) == cycles - 1
    assert first >= max([0, *others]) and len(set(others)) <= 1
    if star:
        assert 2 * first >= epochs
    else:
        assert first - epochs // cycles < cycles  # what is left over


@given(st.integers(1, 5_000))
def test_the_default_has_enough_epochs_and_updates_and_no_epoch_more(steps_per_epoch: int) -> None:
    for fine_tunes, (epochs, updates) in {True: (12, 240), False: (50, 4_500)}.items():
        found = default_epochs(steps_per_epoch, fine_tunes)
        assert found >= epochs and found * steps_per_epoch >= updates
        assert found == epochs or (found - 1) * steps_per_epoch < updates
    given_none = plan(config(pretrained="hub", restart_from="first"), steps_per_epoch)
    assert sum(given_none.cycle_lengths) == default_epochs(steps_per_epoch, fine_tunes=True)


def test_a_run_says_which_of_its_cycles_are_long_enough_to_be_averaged() -> None:
    schedule = ScheduleRecord(
        T_0=500, T_1=1_000, T_mult=1, eta_max=0.1, eta_min=0, cycles=3,
        steps_per_epoch=25, total_steps=2_500, cycle_ends=(500, 1_500, 2_500),
    )  # fmt: skip
    for weights in ("last", "ema"):
        assert [schedule.pays(cycle, weights) for cycle in range(3)] == [False, True, True]
    for update in ({"steps_per_epoch": 50}, {"name": "cosine"}, {"cycle_ends": ()}):
        assert not schedule.model_copy(update=update).pays(1, "last")


def test_of_a_cycle_that_a_trial_has_cut_short_only_the_moving_average_is_averaged() -> None:
    cut = ScheduleRecord(
        T_0=1_000, T_mult=1, eta_max=0.1, eta_min=0, cycles=2, steps_per_epoch=25,
        total_steps=2_000, cycle_ends=(1_000, 2_000), falls_over=4_000,
    )  # fmt: skip
    found = {weights: cut.pays(0, weights) for weights in get_args(Weights)}
    assert found == {"last": False, "ema": True, "tail": False, "soup": False}
    assert all(cut.pays(1, weights) for weights in get_args(Weights))


def test_a_planned_run_is_resumed_by_the_plan_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapensemble.trainer.pace.measured_pace", lambda *_: Pace(200.0, 0.4))
    run_dir = train(
        TrainConfig(
            data="digits",
            out=tmp_path / "run",
            model="tiny",
            minutes=10,
            batch_size=256,
            threads=1,
        )
    )
    kept = run_config(run_dir)
    assert (kept.minutes, kept.cycles, kept.cycle_epochs, kept.l2_penalty) == (None, 1, 2, 2e-3)
    assert read_run(run_dir).schedule.total_steps == 2 * 3
    monkeypatch.setattr("snapensemble.trainer.pace.measured_pace", lambda *_: 1 / 0)
    assert resume(run_dir) == run_dir


def test_the_pace_is_measured_and_the_network_stays_as_it_is(tmp_path: Path) -> None:
    def weights(**budget: Any) -> tuple[str, ...]:
        settings = {"data": "digits", "model": "tiny", "batch_size": 256, "threads": 1, "seed": 3}
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        run = read_run(train(TrainConfig(out=out, **settings, **budget)))
        assert run.schedule.cycles == 1
        return tuple(snapshot.sha256 for snapshot in run.all_snapshots)

    # An epoch longer than the time: whatever the machine, one epoch is trained.
    assert weights(minutes=1e-6) == weights(epochs=1)


def test_cycles_that_time_has_no_room_for_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(data="digits", out=tmp_path / "run", cycles=3, minutes=1)
    few = divided(config, 809, 25, lambda: Pace(epoch=20.0, cycle_end=0.0))
    assert few.cycles == 2
    assert "time for 2 epochs, which are 2 cycles, and not for --cycles 3" in (
        capsys.readouterr().err
    )
    assert divided(config, 809, 25, lambda: Pace(epoch=1.0, cycle_end=0.0)).cycles == 3
    assert not capsys.readouterr().err


within_a_minute = st.floats(0.5, 60).map(lambda epoch: Pace(epoch, 0.0))  # 1 to 108 epochs


@given(within_a_minute, st.sampled_from(["cosine", "step", "plateau"]), st.booleans())
def test_snapshots_of_a_schedule_without_cycles_are_equally_spaced_whatever_fits(
    pace: Pace, schedule: str, fine_tunes: bool
) -> None:
    settings = {"pretrained": "hub"} if fine_tunes else {}
    found = divided(config(minutes=1, schedule=schedule, **settings), 9_000, 100, lambda: pace)
    fits = max(1, int(54 / pace.epoch))
    assert len(set(found.cycle_lengths)) == 1
    assert fits - MOST_CYCLES < sum(found.cycle_lengths) <= fits


@given(within_a_minute, st.integers(1, 12))
def test_a_star_in_few_minutes_has_as_many_cycles_as_fit_and_none_is_empty(
    pace: Pace, cycles: int
) -> None:
    found = divided(config(minutes=1, cycles=cycles, pretrained="hub"), 9_000, 100, lambda: pace)
    fits = max(1, int(54 / pace.epoch))
    assert sum(found.cycle_lengths) == fits and min(found.cycle_lengths) >= 1
    assert len(found.cycle_lengths) == min(cycles, 1 + fits // 2)
