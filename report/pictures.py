"""Which pictures a run gives, with what each says in words."""

import numpy as np

from report.charts import (
    curves_chart,
    ensemble_chart,
    rate_chart,
    snapshots_chart,
)
from report.heatmap import disagreement_chart
from report.markup import Picture, percents
from report.measure import Measured

RATE, CURVES, SNAPSHOTS = "learning-rate", "curves", "snapshots"
ENSEMBLE, DISAGREEMENT = "ensemble", "disagreement"
FILES = frozenset(f"{name}.png" for name in (RATE, CURVES, SNAPSHOTS, ENSEMBLE, DISAGREEMENT))


def pictures(measured: Measured) -> list[Picture]:
    """Those that the run has numbers for, in the order of the page."""
    drawn = []
    if measured.steps:
        drawn += [_rate(measured), _curves(measured)]
    if measured.snapshots:
        drawn.append(_snapshots(measured))
    if len(measured.snapshots) > 1:
        drawn += [_ensemble(measured), _disagreement(measured)]
    return drawn


def cycle_word(measured: Measured) -> str:
    """`cycle` where the rate restarts; else snapshots are equally spaced, at `interval`s."""
    return "cycle" if measured.run.schedule.name == "sgdr" else "interval"


def _rate(measured: Measured) -> Picture:
    word, rate_T = cycle_word(measured), measured.rate.y_T
    return Picture(
        RATE,
        "Learning rate",
        f"The rate of each optimizer step. Every second {word} is shaded; "
        f"a dot is a snapshot, taken after the last step of its {word}.",
        f"Learning rate over {measured.steps:,} optimizer steps, between {rate_T.min():.3g} and "
        f"{rate_T.max():.3g}, with {len(measured.snapshots)} snapshots marked.",
        rate_chart(measured, word),
    )


def _curves(measured: Measured) -> Picture:
    loss = f"Training loss, {measured.smooth_loss.y_T[-1]:.3g} nats at the end"
    if not measured.epochs_done:
        return Picture(
            CURVES,
            "Training loss",
            "No epoch has been validated yet, so there is the training loss only.",
            f"{loss}.",
            curves_chart(measured),
        )
    nll_E, accuracy_E = measured.val_nll.y_T, measured.val_accuracy.y_T
    return Picture(
        CURVES,
        "Loss and validation",
        f"Faint: the loss of each step. Line: the mean of the last {measured.window:,} logged "
        f"steps. Below: the validation images after each epoch. Every second "
        f"{cycle_word(measured)} is shaded. A high learning rate makes the figures worse for a "
        "while; what counts is how low they come before the next snapshot.",
        f"{loss}. Validation after {measured.epochs_done} epochs: NLL {nll_E[-1]:.4f} nats, "
        f"lowest {nll_E.min():.4f}; accuracy {percents(accuracy_E[-1])}, "
        f"highest {percents(accuracy_E.max())}.",
        curves_chart(measured),
    )


def _snapshots(measured: Measured) -> Picture:
    word = cycle_word(measured)
    best = measured.snapshots[measured.ranked[0]]
    cycle = measured.run.snapshots[measured.ranked[0]].cycle
    return Picture(
        SNAPSHOTS,
        "Each snapshot alone",
        f"Validation figures of every snapshot by its {word}, counted from 0; the best circled.",
        f"{len(measured.snapshots)} snapshots; the lowest validation NLL, {best['nll']:.4f} nats, "
        f"is that of {word} {cycle}, with accuracy {percents(best['accuracy'])}.",
        snapshots_chart(measured, word),
    )


def _ensemble(measured: Measured) -> Picture:
    m, every = measured.best_size, measured.best_m[-1]
    best, single = measured.best_m[m - 1], measured.best_m[0]
    return Picture(
        ENSEMBLE,
        "The growing ensemble",
        "The probabilities of m snapshots averaged: the last m, and the m best by validation NLL. "
        "The best m were chosen and measured on the same validation images, which flatters them; "
        "the last m were not chosen. snapensemble evaluate measures on the test images.",
        f"Best single snapshot: NLL {single.nll:.4f}, accuracy {percents(single.accuracy)}. "
        f"Best {m}: NLL {best.nll:.4f}, accuracy {percents(best.accuracy)}. "
        f"All {len(measured.best_m)}: NLL {every.nll:.4f}, accuracy {percents(every.accuracy)}.",
        ensemble_chart(measured),
    )


def _disagreement(measured: Measured) -> Picture:
    S, word = len(measured.snapshots), cycle_word(measured)
    pairs = measured.disagreement_SS[np.triu_indices(S, k=1)]
    return Picture(
        DISAGREEMENT,
        "How far the snapshots disagree",
        "Percent of the validation images to which two snapshots give different top classes. "
        "Snapshots that never disagree gain nothing from being averaged.",
        f"Two of the {S} snapshots disagree on {percents(pairs.min())} to "
        f"{percents(pairs.max())} of the validation images, {percents(pairs.mean())} on average.",
        disagreement_chart(
            measured.disagreement_SS,
            [str(snapshot.cycle) for snapshot in measured.run.snapshots],
            xlabel=f"{word} of one snapshot",
            ylabel=f"{word} of the other",
            images="validation images",
        ),
    )
