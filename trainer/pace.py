"""What follows from this machine's speed, which is measured on a copy of the network."""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from statistics import median

import torch
from torch import nn

from snapensemble.contracts.process import say
from snapensemble.trainer.budget import Pace, divided, short_cycles
from snapensemble.trainer.build import build_objective
from snapensemble.trainer.config import TrainConfig
from snapensemble.trainer.device.transfers import Reading
from snapensemble.trainer.loop import Batches, train_epoch
from snapensemble.trainer.optimizers import build_optimizer
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Constant
from snapensemble.trainer.seeding import keeping_random_state
from snapensemble.trainer.validation import Labelled, predict_logits

SECONDS, STEPS = 3.0, 8  # whichever takes longer
WARM_UP = 3  # steps, of which the first reserves memory and perhaps compiles
VALIDATED = 500  # images
COMPILING_S = 60.0  # about what compiling takes; a run has to be ten times as long
LEAST_GAIN = 1.05  # of speed; less may be noise, and two runs had better have the same bits


def settled(
    config: TrainConfig,
    model: nn.Module,
    batches: Batches,
    val: Labelled,
    started: float,
    *,
    begins: bool,
) -> TrainConfig:
    """The settings in numbers, see `divided`, and compiled steps if they are faster here.

    Args:
        config: as it was given.
        model: stays as it is.
        batches: of training images.
        val: of validation.
        started: when the process began with this run, on the monotonic clock.
        begins: whether the run begins now.

    Raises:
        InvalidConfig: a setting does not fit the cycles, such as a warm-up that is longer.
    """
    world = batches.world

    @cache
    def paced(compiled: bool) -> Pace:
        way = config.model_copy(update={"compile": compiled})
        with keeping_random_state(batches.device):
            return measured_pace(way, model, batches, val, batches.device)

    def measure() -> Pace:
        pace = paced(config.compile is True)
        if world.leads:
            say(f"an epoch takes {pace.epoch:.1f} s here")
        return pace._replace(spent=world.largest(int(time.monotonic() - started)))

    steps_per_epoch = batches.steps_per_epoch
    numbers = divided(config, len(batches.labels_N), steps_per_epoch, measure, begins=begins)
    if world.leads and (warning := short_cycles(numbers, steps_per_epoch)):
        say(warning)
    if numbers.compile != "auto":
        return numbers
    pays = compiling_pays(sum(numbers.cycle_lengths), lambda way: paced(way).epoch)
    return numbers.model_copy(update={"compile": pays})


def measured_pace(
    config: TrainConfig, model: nn.Module, batches: Batches, val: Labelled, device: torch.device
) -> Pace:
    """The seconds of an epoch and of a cycle's end, the same in every process of the run.

    Args:
        config: gives the optimizer and the objective.
        model: stays as it is.
        batches: of training images.
        val: of validation.
        device: where the network is trained.
    """
    world = batches.world
    trial = deepcopy(model)
    still = Constant(eta=0.0)  # the work of a step, and no step
    state = State(trial, build_optimizer(trial, config, still, device))
    objective, reading = build_objective(config, trial, world, device), Reading(device)
    times: list[float] = []
    begun = time.monotonic()

    def enough() -> bool:
        """Whether the steps so far will do; all processes do as many of them."""
        spent = world.largest(int(1_000 * (time.monotonic() - begun)))
        return len(times) >= WARM_UP + STEPS and spent >= 1_000 * SECONDS

    while not enough():
        last = time.monotonic()
        cycle = Cycle(0, state.step, batches.steps_per_epoch)
        for steps in train_epoch(state, objective, batches, still, cycle, reading):
            times.append((time.monotonic() - last) / len(steps))
            if enough():
                break
            last = time.monotonic()
        state.val_nlls.append(0.0)
    shown_N = val.inputs_N[:VALIDATED]
    last = time.monotonic()
    predict_logits(trial, shown_N)
    per_image = (time.monotonic() - last) / len(shown_N)
    step, validation = median(times[WARM_UP:]), per_image * len(val.labels_N) / world.size
    # Forwards is a third of a step; two averages of the weights are shown images and validated.
    end = 2 * (batches.batches_for_statistics * step / 3 + validation)

    def slowest(seconds: float) -> float:
        return world.largest(int(1e6 * seconds) + 1) / 1e6

    return Pace(epoch=slowest(batches.steps_per_epoch * step + validation), cycle_end=slowest(end))


def compiling_pays(epochs: int, epoch_seconds: Callable[[bool], float]) -> bool:
    """Whether a run ends earlier if its network is compiled first, by trying both.

    A run that would be over before compiling is earned back is not worth the trial. Measured:
    docs/decisions/0055-what-makes-training-faster.md.

    Args:
        epochs: of the run.
        epoch_seconds: times some steps, plain or compiled, and gives the seconds of an epoch.
    """
    plain = epoch_seconds(False)
    if plain * epochs < 10 * COMPILING_S:
        say(f"not compiled: {epochs} epochs of {plain:.1f} s are too short to earn it back")
        return False
    try:
        compiled = epoch_seconds(True)
    except Exception as error:  # a compiler that is there and does not work fails in many ways
        say(f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return False
    pays = plain > LEAST_GAIN * compiled
    say(
        f"{'compiled' if pays else 'not compiled'}: an epoch takes {compiled:.1f} s compiled and "
        f"{plain:.1f} s otherwise"
    )
    return pays
