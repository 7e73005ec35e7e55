"""What a member's file says about itself: Netron and `onnx.load` show it."""

import json
from importlib.metadata import version

from contracts.bundle import Precision
from contracts.pixels import ImageContract
from contracts.run import RunManifest, ScheduleRecord, Snapshot

DATA_KINDS = ("digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "npz")


def member_metadata(
    run: RunManifest, snapshot: Snapshot, *, member: str, precision: Precision = "fp32"
) -> dict[str, str]:
    """Where a member comes from and what it takes, with no path of the machine that trained it."""
    return {
        "classes": json.dumps(run.classes, ensure_ascii=False),  # in the order of the logits
        "image": run.image.model_dump_json(),
        "member": member,
        "model": run.training.model,
        "data": data_kind(run.data.spec),
        "schedule": schedule_in_short(run.schedule),
        "seed": str(run.training.seed),
        "cycle": str(snapshot.cycle),  # from 0
        "step": str(snapshot.step),
        "val_nll": f"{snapshot.val.nll:.6f}",
        "val_accuracy": f"{snapshot.val.accuracy:.6f}",
        "precision": precision,
        "snapensemble": version("snapensemble"),
    }


def graph_sentence(image: ImageContract, classes: int) -> str:
    """The graph's input and output, for its `doc_string`."""
    colours = "RGB" if image.channels == 3 else "grey"
    shape = ", ".join(str(side) for side in image.shape)
    return (
        f"images: uint8 [batch, {shape}], {colours}, 0 to 255, as decoded: the normalisation is "
        f"inside; logits: float32 [batch, {classes}], a softmax makes them probabilities"
    )


def data_kind(spec: str) -> str:
    """The kind of a data set, without its place."""
    kind = spec.partition(":")[0]
    return kind if kind in DATA_KINDS else "folder"


def schedule_in_short(schedule: ScheduleRecord) -> str:
    """One line; lengths in optimizer steps."""
    return (
        f"{schedule.name}: {schedule.cycles} cycles, {schedule.total_steps} steps, "
        f"T_0 {schedule.T_0}, T_mult {schedule.T_mult}, "
        f"eta_max {schedule.eta_max:g}, eta_min {schedule.eta_min:g}"
    )
