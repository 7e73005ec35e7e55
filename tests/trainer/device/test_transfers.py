"""Steps on torch's `meta` device, which has no numbers: whoever reads one fails."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import snapensemble.trainer.loop
from snapensemble.contracts.pixels import ImageContract
from snapensemble.trainer.augmentation.batch import Augmentation
from snapensemble.trainer.augmentation.mixing import Mixing
from snapensemble.trainer.device.transfers import FIRST_STEPS, MOST_STEPS, Reading
from snapensemble.trainer.distributed import World
from snapensemble.trainer.loop import (
    Augmented,
    Batches,
    Objective,
    Source,
    Step,
    Views,
    train_epoch,
)
from snapensemble.trainer.models.registry import build_model
from snapensemble.trainer.models.tuning import divided
from snapensemble.trainer.recording.checkpoint import State
from snapensemble.trainer.schedule import Cycle
from snapensemble.trainer.schedules import Constant

META = torch.device("meta")
IMAGE = ImageContract(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.3,) * 3)
IMAGES, BATCH = 200, 10
EVERYTHING = Augmentation(
    crop_padding=1, flip=True, cutout=2, min_area=0.5, trivial=True, jitter=0.4, erasing=0.25
)


class WaitsForTheDevice(AssertionError):
    """What makes a GPU and the process that feeds it wait for each other."""


class NothingWaits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's lack types
    """Raises WaitsForTheDevice at each operation at which a GPU would be waited for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [each for each in args if isinstance(each, Tensor)]
        devices = {each.device.type for each in tensors if each.ndim}
        if name == "_to_copy":
            devices |= {torch.device(kwargs.get("device") or args[0].device).type}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            if tensors[0 if name == "_to_copy" else 1].device == META:
                raise WaitsForTheDevice(f"{func} reads from the device")
            if not (kwargs.get("non_blocking") or args[-1] is True):
                raise WaitsForTheDevice(f"{func} waits for the copy")
        elif name in ("index", "index_put", "index_put_"):
            indices = [each for each in args[1] if each is not None]
            if args[0].device == META and any(each.device != META for each in indices):
                raise WaitsForTheDevice(f"{func} copies its indices")
            if any(each.dtype == torch.bool and each.device == META for each in indices):
                raise WaitsForTheDevice(f"{func} counts what is chosen")
        return func(*args, **kwargs)


def watched() -> NothingWaits:
    return NothingWaits()  # type: ignore[no-untyped-call]


def steps(source: Source, network: torch.nn.Module, read: Any, **more: Any) -> list[Any]:
    """An epoch of 20 steps on the device without numbers; what was yielded."""
    network = network.to(META).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    state = State(network, optimizer)
    batches = Batches(
        source=source,
        labels_N=torch.arange(IMAGES) % 3,
        batch_size=BATCH,
        seed=0,
        world=World(),
        device=META,
        mixing=more.pop("mixing", None),
    )
    objective = Objective(network=network, label_smoothing=0.1, autocast=False, **more)
    cycle = Cycle(0, 0, batches.steps_per_epoch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapensemble.trainer.loop, "read", read)
        with watched():
            return list(
                train_epoch(state, objective, batches, Constant(eta=0.1), cycle, Reading(META))
            )


def unread(end: int, rates: list[float], losses: list[Tensor]) -> tuple[Step, ...]:
    return tuple(Step(end, rate, 0.0) for rate in rates)


def images(augmentation: Augmentation) -> Augmented:
    return Augmented(
        images_NCHW=torch.zeros(IMAGES, 3, 8, 8, dtype=torch.uint8, device=META),
        augmentation=augmentation,
        fill_C=torch.zeros(3, dtype=torch.uint8, device=META),
    )


MIXING = Mixing(mixup=0.4, cutmix=1.0)


@pytest.mark.parametrize("mixing", [None, MIXING], ids=["alone", "mixed"])
@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING], ids=["plain", "everything"])
def test_no_step_waits_for_the_device_until_losses_are_read(
    augmentation: Augmentation, mixing: Mixing | None
) -> None:
    network = build_model("tiny", 3, IMAGE)
    groups = steps(
        images(augmentation),
        network,
        unread,
        mixing=mixing,
        class_weights_K=torch.ones(3, device=META),
        longest_gradient=1.0,
    )
    assert len(groups[0]) == FIRST_STEPS
    assert sum(map(len, groups)) == IMAGES // BATCH


def test_no_step_on_features_waits_for_the_device() -> None:
    _, member = divided(build_model("tiny", 3, IMAGE), "head")
    width = sum(member.last.weight.shape[1:])
    source = Views(features_VN=torch.zeros(2, IMAGES, width).half(), augmentation=Augmentation())
    assert sum(map(len, steps(source, member, unread))) == IMAGES // BATCH


def test_a_loss_that_is_read_at_a_step_is_noticed() -> None:
    def item(end: int, rates: list[float], losses: list[Tensor]) -> tuple[Step, ...]:
        return (Step(end, rates[0], losses[0].item()),)

    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
        steps(images(Augmentation()), build_model("tiny", 3, IMAGE), item)


@pytest.mark.parametrize("wrong", ["numbers", "copy", "indices"])
def test_whatever_waits_is_noticed(wrong: str) -> None:
    """The watch of these tests sees each kind of waiting."""
    here, there = torch.zeros(3), torch.zeros(3, device=META)
    waits = {
        "numbers": lambda: there.to("cpu"),
        "copy": lambda: here.to(META),
        "indices": lambda: there[torch.tensor([0, 1])],
    }
    with watched(), pytest.raises(WaitsForTheDevice):
        waits[wrong]()
    with watched():
        here.to(META, non_blocking=True)


def test_on_the_cpu_every_loss_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(torch.device("cpu"))
    reading.choose(World())
    assert reading.steps == 1


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, MOST_STEPS), (0.5, FIRST_STEPS), (2.0, 2), (60.0, 1)]
)
def test_losses_are_read_about_twice_a_second(
    seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 100.0 + seconds, 0.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    reading = Reading(META)
    reading.choose(World())
    assert reading.steps == expected
