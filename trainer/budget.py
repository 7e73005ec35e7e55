"""How a budget is divided into cycles: as many as pay, down to one, which is a cosine run.

A restart costs what the rate's fall before it had gained. What it gives, a member that errs
otherwise, is worth that only where a cycle is long enough to train the network again, and where a
longer one would gain nothing more: where the network has fitted its training images. The first is
known before. The second shows in the first cycle, which begins as the one of a cosine run and stays
that unless it passes a trial. Measured in docs/results.md; docs/decisions/0059 has the rule.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.options import build
from snapensemble.contracts.process import say
from snapensemble.contracts.run import (
    MIN_EPOCHS,
    MIN_UPDATES,
    RunManifest,
    ScheduleRecord,
    is_long_enough,
)
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.fine_tuning.defaults import with_rates, would_be_star
from snapensemble.trainer.schedule import Sgdr, cycles_of
from snapensemble.trainer.schedules import Plan

FEWEST_CYCLES, MOST_CYCLES = 3, 5  # after the trial
FITTED = 0.5  # the most that the NLL on training images may be of that on validation images
DEFAULT_BUDGET = 50, 4_500  # epochs or updates, whichever are more
FINE_TUNING_BUDGET = 12, 240
MIN_STAR_UPDATES = 25  # in each cycle of a star but the first
SPARE = 0.1  # of `minutes`: for starting, for what comes at the ends of cycles, and for noise
SMALL = 2_500  # training images
SMALL_WEIGHT_DECAY = 2e-3


class Pace(NamedTuple):
    """What training takes on this machine, in seconds."""

    epoch: float  # with its validation
    cycle_end: float  # averages of the weights: their statistics and their validation
    spent: float = 0.0  # since the start, before the first epoch


def divided(
    config: TrainConfig,
    images: int,
    steps_per_epoch: int,
    measure: Callable[[], Pace],
    *,
    begins: bool = True,
) -> TrainConfig:
    """The settings with what depends on the data set and on this machine's speed in numbers.

    The run directory keeps these, so that another start follows them wherever it is.

    Args:
        config: as it was given.
        images: in the training split.
        steps_per_epoch: optimizer updates in an epoch.
        measure: gives the pace here; called only if there are `minutes`.
        begins: whether the run begins now; one that goes on has its rates.

    Raises:
        InvalidConfig: a setting does not fit the cycles, such as a warm-up that is longer.
    """
    changes: dict[str, float | None] = {}
    if config.weight_decay is None and images <= SMALL and not config.fine_tunes:
        changes["weight_decay"] = SMALL_WEIGHT_DECAY
    if config.divides_itself:
        if config.minutes is not None:
            epochs = epochs_within(config.minutes, measure())
        else:
            epochs = config.epochs or default_epochs(steps_per_epoch, config.fine_tunes)
        cycles = _cycles(config, epochs, steps_per_epoch)
        if config.cycles is not None and cycles < config.cycles:
            say(
                f"warning: there is time for {epochs} epochs, which are {cycles} cycles, and not "
                f"for --cycles {config.cycles}; more --minutes, or smaller images, make room"
            )
        if config.schedule != "sgdr":
            epochs -= epochs % cycles  # snapshots are equally spaced
        first, others = shares(epochs, cycles, star=would_be_star(config))
        changes |= {
            "cycles": 1 + len(others),
            "cycle_epochs": others[0] if others else first,
            "first_cycle_epochs": first if others and first != others[0] else None,
            "epochs": None,
            "minutes": None,
        }
    config = build(TrainConfig, {**dict(config), **changes})
    return with_rates(config) if begins else config


def cycles_if_fitted(epochs: int, steps_per_epoch: int) -> list[int]:
    """The lengths in epochs of a cycle for the trial and of 3 to 5 after it; [] if too few fit."""
    shortest = max(MIN_EPOCHS, -(-MIN_UPDATES // steps_per_epoch))
    cycles = min(MOST_CYCLES, epochs // shortest - 1)
    if cycles < FEWEST_CYCLES:
        return []
    each = (epochs - shortest) // cycles
    return [epochs - each * cycles, *[each] * cycles]


def first_cycle_decides(config: TrainConfig) -> bool:
    """Whether the first cycle is to decide about restarts: nobody asked for cycles."""
    is_chain = config.schedule == "sgdr" and not config.fine_tunes and not config.is_star
    return is_chain and config.divides_itself and config.cycles is None


def planned(
    config: TrainConfig, steps_per_epoch: int, begun: RunManifest | None, tries: bool
) -> Plan:
    """The plan of a run.

    Args:
        config: in numbers, as `divided` leaves it.
        steps_per_epoch: optimizer updates in an epoch.
        begun: the run, if it goes on, with its trial where it stands.
        tries: whether the first cycle of a run that begins is to decide about restarts.
    """
    plan = config.plan(steps_per_epoch)
    if begun is not None:
        return as_recorded(plan, begun.schedule)
    return on_trial(plan) if tries else plan


def on_trial(plan: Plan) -> Plan:
    """A plan of one cycle, and what becomes of it if that one passes the trial."""
    steps = plan.steps_per_epoch
    lengths = cycles_if_fitted(plan.epochs, steps)
    if not lengths or not isinstance(plan.schedule, Sgdr):
        return plan
    cycles = cycles_of([length * steps for length in lengths])
    try:
        schedule = replace(plan.schedule, cycles=cycles, falls_over=plan.steps)
    except Misfit:  # a warm-up or a lowest rate that allows no restart there
        return plan
    restarts = replace(plan, cycles=cycles, schedule=schedule, trial="fitted")
    return replace(plan, trial="open", if_fitted=restarts)


def as_recorded(plan: Plan, record: ScheduleRecord) -> Plan:
    """A resumed run's plan, with the trial where it stands."""
    if record.trial == "open":
        # Cycles that were added meanwhile were asked for, and those are never tried.
        return on_trial(plan) if len(plan.cycles) == 1 else plan
    if record.falls_over is not None and isinstance(plan.schedule, Sgdr):
        plan = replace(plan, schedule=replace(plan.schedule, falls_over=record.falls_over))
    return replace(plan, trial=record.trial)


def has_fitted(train_nll: float, val_nll: float) -> bool:
    """Whether a network knows its training images so well that restarts are worth more than length.

    Longer cycles then make it only surer, and what an average evens out is large.
    """
    return train_nll <= FITTED * val_nll


def about_trial(train_nll: float, val_nll: float, plan: Plan) -> str:
    """What the trial has decided, and why."""
    found = (
        f"NLL {train_nll:.3f} on training images, {val_nll:.3f} on validation images: the network"
    )
    if plan.trial == "fitted":
        each = plan.cycles[1].length // plan.steps_per_epoch
        return (
            f"{found} has fitted its images, so the rate restarts: {len(plan.cycles) - 1} cycles "
            f"of {each} epochs follow"
        )
    return (
        f"{found} has not fitted its images (less than {FITTED:.0%} would), so this cycle goes on"
    )


def default_epochs(steps_per_epoch: int, fine_tunes: bool = False) -> int:
    """50 epochs, or as many as 4,500 updates take if that is more; far fewer to fine-tune."""
    epochs, updates = FINE_TUNING_BUDGET if fine_tunes else DEFAULT_BUDGET
    return max(epochs, -(-updates // steps_per_epoch))


def epochs_within(minutes: float, pace: Pace) -> int:
    """The whole epochs that fit into nine tenths of the time; one at least, and then it says so."""
    left = 60 * minutes * (1 - SPARE) - pace.spent - pace.cycle_end
    epochs = int(left / pace.epoch)
    if epochs < 1:
        say(
            f"warning: one epoch takes {pace.epoch:.1f} s here after {pace.spent:.0f} s of "
            f"preparation, and is trained although it is too much for --minutes {minutes:g}; "
            "smaller images or a smaller network are faster"
        )
    return max(1, epochs)


def star_cycles(epochs: int, steps_per_epoch: int) -> int:
    """How many cycles a star's budget is worth: the first one half of it, others short ones."""
    shortest = -(-MIN_STAR_UPDATES // steps_per_epoch)  # epochs
    return 1 + min(MOST_CYCLES - 1, epochs // 2 // shortest)


def shares(epochs: int, cycles: int, *, star: bool = False) -> tuple[int, list[int]]:
    """Equal cycles; the first one takes what is left over.

    In a star all depend on how good the first one is, and it takes half of the epochs.
    """
    each = epochs // 2 // max(1, cycles - 1) if star else epochs // cycles
    return epochs - each * (cycles - 1), [each] * (cycles - 1)


def short_cycles(config: TrainConfig, steps_per_epoch: int) -> str | None:
    """A warning about cycles that were asked for and are too short to pay; else None."""
    lengths = config.cycle_lengths
    shortest = min(lengths)
    updates = shortest * steps_per_epoch
    if config.schedule != "sgdr" or len(lengths) == 1 or config.is_star:
        return None
    if is_long_enough(updates, steps_per_epoch):
        return None
    return (
        f"warning: the shortest of {len(lengths)} cycles has {updates:,} updates ({shortest} "
        f"epochs); below {MIN_UPDATES:,} updates or {MIN_EPOCHS} epochs an ensemble has been no "
        f"better than one run without restarts. --epochs {sum(lengths)} alone restarts only where "
        "that pays"
    )


def _cycles(config: TrainConfig, epochs: int, steps_per_epoch: int) -> int:
    if config.schedule != "sgdr" or config.cycles is not None:
        most = 1 + epochs // 2 if would_be_star(config) else epochs  # of an epoch at least
        return min(most, config.cycles or MOST_CYCLES)
    if config.is_star:
        return star_cycles(epochs, steps_per_epoch)
    return 1  # of pretrained weights: docs/decisions/0038; else the first one's trial decides
