"""measure() reads a run directory and works out all that its report says.

Shapes: S snapshots, E epochs, T points of a curve.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.metrics import Floats, rank
from snapensemble.contracts.run import RunManifest, read_run, read_validation
from snapensemble.report.figures import (
    growing_ensemble,
    pairwise_disagreement,
    smoothing_window,
    snapshot_summaries,
    thinned,
    trailing_mean,
)
from snapensemble.report.run.history import History, read_history


@dataclass(frozen=True, slots=True)
class Curve:
    """Points to be joined by a line."""

    x_T: Floats
    y_T: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run in numbers. Everything about snapshots is in the order of their cycles."""

    run: RunManifest
    steps: int  # logged
    window: int  # of the smoothed loss, in logged steps
    starts: list[int]  # first step of each cycle that has begun
    rate: Curve  # over optimizer steps
    loss: Curve  # over epochs, as are those that follow
    smooth_loss: Curve
    val_nll: Curve
    val_accuracy: Curve
    val_macro_accuracy: Curve  # empty where an earlier version trained
    classes_seen: int  # classes with validation images; the macro accuracy is their mean
    snapshots: list[dict[str, float]]
    averages: list[dict[str, float]]  # of the weights, in the order of run.averages
    ranked: list[int]  # best validation NLL first
    last_m: list[ValFigures]  # figures of the average of the last 1, 2, ..., S
    best_m: list[ValFigures]  # and of the best 1, 2, ..., S
    disagreement_SS: Floats

    @property
    def cycle_word(self) -> str:
        """`cycle` where the rate restarts; else `interval`, as snapshots are equally spaced."""
        return "cycle" if self.run.schedule.name == "sgdr" else "interval"

    @property
    def best_size(self) -> int:
        """The m for which the average of the best m has the lowest NLL; the smallest of equals."""
        return 1 + min(range(len(self.best_m)), key=lambda i: self.best_m[i].nll)

    @property
    def epochs_done(self) -> int:
        """Epochs that have been validated."""
        return len(self.val_nll.x_T)


def measure(run_dir: Path) -> Measured:
    """Read a run, finished or not, and work out what the report shows.

    Raises:
        InvalidManifest: the run directory is damaged.
    """
    run = read_run(run_dir)
    history = read_history(run_dir)
    logits_SNK, labels_N = read_validation(run_dir, run)
    count = len(run.snapshots)  # averages of the weights come after them
    averages = snapshot_summaries(logits_SNK[count:], labels_N)
    logits_SNK = logits_SNK[:count]
    summaries = snapshot_summaries(logits_SNK, labels_N)
    ranked = rank([figures["nll"] for figures in summaries])
    latest = list(reversed(range(len(summaries))))
    return Measured(
        run=run,
        **_curves(history, run.schedule.steps_per_epoch),
        classes_seen=len(np.unique(labels_N)),
        snapshots=summaries,
        averages=averages,
        ranked=ranked,
        last_m=growing_ensemble(logits_SNK, labels_N, latest),
        best_m=growing_ensemble(logits_SNK, labels_N, ranked),
        disagreement_SS=pairwise_disagreement(logits_SNK),
    )


def _curves(history: History, steps_per_epoch: int) -> dict[str, Any]:
    step_T, rate_T, loss_T = (
        np.array(column, dtype=np.float64)
        for column in (history.step_T, history.rate_T, history.loss_T)
    )
    done_E = np.array(history.done_E, dtype=np.float64) / steps_per_epoch
    macro_E = np.array(history.val_macro_accuracy_E)
    window = smoothing_window(len(step_T), steps_per_epoch)

    def thin(x_T: Floats, y_T: Floats) -> Curve:
        kept = thinned(y_T)
        return Curve(x_T[kept], y_T[kept])

    epoch_T = (step_T + 1) / steps_per_epoch
    return {
        "steps": len(step_T),
        "window": window,
        "starts": sorted(history.starts.values()),
        "rate": thin(step_T, rate_T),
        "loss": thin(epoch_T, loss_T),
        "smooth_loss": thin(epoch_T, trailing_mean(loss_T, window)),
        "val_nll": Curve(done_E, np.array(history.val_nll_E)),
        "val_accuracy": Curve(done_E, np.array(history.val_accuracy_E)),
        "val_macro_accuracy": Curve(done_E[~np.isnan(macro_E)], macro_E[~np.isnan(macro_E)]),
    }


def as_json(measured: Measured) -> dict[str, Any]:
    """The numbers behind the charts, with the curves as they are drawn."""
    cycles = [snapshot.cycle for snapshot in measured.run.snapshots]
    growth = [
        {
            "m": m,
            "last": {**last.model_dump(), "cycles": cycles[-m:]},
            "best": {**best.model_dump(), "cycles": [cycles[i] for i in measured.ranked[:m]]},
        }
        for m, (last, best) in enumerate(
            zip(measured.last_m, measured.best_m, strict=True), start=1
        )
    ]
    curves = ("rate", "loss", "smooth_loss", "val_nll", "val_accuracy", "val_macro_accuracy")
    return {
        "complete": measured.run.complete,
        "cycles": measured.run.schedule.cycles,
        "steps_logged": measured.steps,
        "loss_window_steps": measured.window,
        "cycle_starts": measured.starts,
        "snapshots": [
            {"cycle": s.cycle, "step": s.step, "learning_rate": s.learning_rate, **figures}
            for s, figures in zip(measured.run.snapshots, measured.snapshots, strict=True)
        ],
        "averages": [
            {"name": s.name, "cycle": s.cycle, "weights": s.weights, **figures}
            for s, figures in zip(measured.run.averages, measured.averages, strict=True)
        ],
        "best_snapshot": cycles[measured.ranked[0]] if cycles else None,
        "ensembles": growth,
        "disagreement": measured.disagreement_SS.tolist(),
        "curves": {
            name: {
                "x": getattr(measured, name).x_T.tolist(),
                "y": getattr(measured, name).y_T.tolist(),
            }
            for name in curves
        },
    }
