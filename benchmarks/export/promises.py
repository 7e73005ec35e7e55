"""How often is a promise that a bundle prints broken on images that it has not seen?

    python -m benchmarks.export.promises POPULATION [POPULATION ...] [--data SPEC ...]

A population is a run directory, whose validation and test images are the population (train with a
large --val-fraction), or an .npz with `logits_MNK`, `labels_N` and, for int8, `int8_MNK`. Many
times, some images drawn at random are the validation split on which the product fits a cascade of
all members and judges int8. All other images are the truth: a promise is broken if one of its
limits is exceeded there. The int8 members are judged as they are and, so that there is something to
refuse, with their differences in logits enlarged until they are beyond a limit by a tenth. Of the
answers that are given where unsure images get none, more are wrong than was promised, or not.

Shapes: M members, N images, K classes.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy.stats import binomtest

from benchmarks.machine import save
from snapensemble.contracts.abstention import answered
from snapensemble.contracts.cascade import CascadeRecord, Promise, run_cascade
from snapensemble.contracts.metrics import (
    Answers,
    Floats,
    accuracy,
    mean_probabilities,
    nll,
    nll_rise,
    softmax,
)
from snapensemble.contracts.prediction_sets import covered_and_sizes
from snapensemble.contracts.run import read_run
from snapensemble.export.acceptance import QuantizationRefused, judge_int8
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import pooled
from snapensemble.export.cascade import Choice, Exits, fit_cascade, path_per_depth, path_through
from snapensemble.export.confidence import bound_errors
from snapensemble.export.config import DEFAULTS, ExportConfig
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import to_onnx
from snapensemble.export.parity import run_file
from snapensemble.export.selection import select
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.data.reread import reread
from snapensemble.trainer.recording.snapshots import load_model

KINDS = ("cascade", "int8", "abstention")
RISKS = (0.01, 0.02, 0.05, 0.1)
STRICT = DEFAULTS.model_copy(update={"max_accuracy_drop": 0.001, "max_nll_rise": 0.01})


@dataclass(frozen=True, slots=True)
class Population:
    """Many images that taught and chose nothing, with the answers of all members to them."""

    name: str
    answers: Answers
    int8_MNK: dict[str, Floats]  # probabilities, by a name; none if they are not known


@dataclass(frozen=True, slots=True)
class Way:
    """One way to fit a cascade."""

    name: str
    promise: Promise
    config: ExportConfig
    per_depth: bool


def limits_of(config: ExportConfig) -> str:
    """The limits of a cascade in words."""
    return f"{100 * config.max_accuracy_drop:g} points, {100 * config.max_nll_rise:g} %"


WAYS = (
    # As it was: point estimates on the images that choose, see docs/decisions/0014.
    Way(f"estimate, {limits_of(STRICT)}", "estimate", STRICT, per_depth=False),
    Way(f"estimate, {limits_of(DEFAULTS)}", "estimate", DEFAULTS, per_depth=False),
    Way(f"bound, {limits_of(STRICT)}, per depth", "bound", STRICT, per_depth=True),
    Way(f"bound, {limits_of(DEFAULTS)}, one threshold", "bound", DEFAULTS, per_depth=False),
    Way(f"bound, {limits_of(DEFAULTS)}, per depth", "bound", DEFAULTS, per_depth=True),
)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("populations", nargs="+", type=Path, metavar="POPULATION")
    parser.add_argument("--data", action="append", metavar="SPEC", help="of each run, in order")
    parser.add_argument("--splits", type=int, default=40, help="random splits of each size (40)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[200, 1000, 5000],
        metavar="IMAGES",
        help="validation images (200 1000 5000)",
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="of promises (all)"
    )
    parser.add_argument("--name", default="promises", help="of the result files (promises)")
    args = parser.parse_args()
    specs = args.data or [None] * len(args.populations)
    figures = []
    for path, spec in zip(args.populations, specs, strict=True):
        population = read_population(path, spec)
        # As many images at least tell the truth as make the promise.
        for images in [size for size in args.sizes if 2 * size <= len(population.answers)]:
            splits = [
                one_split(population, images, args.kinds, np.random.default_rng(seed))
                for seed in range(args.splits)
            ]
            kept = {kind: over_splits([split[kind] for split in splits]) for kind in splits[0]}
            figures.append({**described(population), "validation": images, **kept})
    save(args.name, {"populations": figures}, table(figures))


def read_population(path: Path, spec: str | None) -> Population:
    """The answers of a run's snapshots to its validation and test images, or what an .npz holds."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            answers = Answers(softmax(file["logits_MNK"]), file["labels_N"])
            int8_MNK = softmax(file["int8_MNK"]) if "int8_MNK" in file else None
            return Population(path.stem, answers, both(answers, int8_MNK))
    run = read_run(path)
    parts = [
        reread(run.data, run.classes, run.image, spec=spec, split=split)
        for split in ("val", "test")
    ]
    images_NCHW = np.concatenate([part.images_NCHW for part in parts])
    fp32 = [to_onnx(load_model(path, run, snapshot), run.image) for snapshot in run.snapshots]
    taught_NCHW = pooled([path]).calibration_images()
    int8 = [to_int8(file, taught_NCHW) for file in fp32]
    probs = [np.stack([softmax(run_file(f, images_NCHW)) for f in files]) for files in (fp32, int8)]
    answers = Answers(probs[0], np.concatenate([part.labels_N for part in parts]))
    return Population(path.name, answers, both(answers, probs[1]))


def both(answers: Answers, int8_MNK: Floats | None) -> dict[str, Floats]:
    """The answers of int8, as they are and made worse."""
    if int8_MNK is None:
        return {}
    return {"as it is": int8_MNK, "enlarged": enlarged(answers, int8_MNK)}


def described(population: Population) -> dict[str, Any]:
    """What a population is."""
    answers = population.answers
    full_NK = mean_probabilities(answers.probs_MNK)
    return {
        "name": population.name,
        "images": len(answers),
        "members": len(answers.probs_MNK),
        "accuracy": accuracy(full_NK, answers.labels_N),
        "nll": nll(full_NK, answers.labels_N),
    }


def one_split(
    population: Population, images: int, kinds: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """What each way promises on a random validation split, and what holds on the other images."""
    shuffled_N = rng.permutation(len(population.answers))
    val_N, rest_N = shuffled_N[:images], shuffled_N[images:]
    val, rest = population.answers.only(val_N), population.answers.only(rest_N)
    found: dict[str, Any] = {}
    if "cascade" in kinds:
        found["cascade"] = cascades(*fitted(val, rest))
    if "int8" in kinds:
        found["int8"] = {
            f"{promise}, {name}": int8_kept(
                val, rest, int8_MNK[:, val_N], int8_MNK[:, rest_N], promise
            )
            for name, int8_MNK in population.int8_MNK.items()
            for promise in get_args(Promise)[::-1]
        }
    if "abstention" in kinds:
        found["abstention"] = abstentions(*fitted(val, rest)[1:])
    return found


def fitted(val: Answers, rest: Answers) -> tuple[Answers, Answers, Answers, list[float], float]:
    """Choose on validation as `export --select all` does.

    Returns:
        The members' answers to the two halves of validation and to the rest, their weights, and the
        temperature of their average.
    """
    halves = split_validation(val.labels_N)
    selection, calibration = val.only(halves.selection_N), val.only(halves.calibration_N)
    chosen = select(selection.probs_MNK, selection.labels_N, rule="all")
    selection, calibration, rest = (
        Answers(part.probs_MNK[list(chosen.indices)], part.labels_N)
        for part in (selection, calibration, rest)
    )
    temperature = fit_temperature(
        mean_probabilities(selection.probs_MNK, chosen.weights), selection.labels_N
    )
    return selection, calibration, rest, list(chosen.weights), temperature


def cascades(
    selection: Answers,
    calibration: Answers,
    rest: Answers,
    weights_M: Sequence[float],
    temperature: float,
) -> dict[str, Any]:
    """Fit each way on validation, and measure it on the rest."""
    fit = partial(fit_cascade, selection, weights_M=weights_M, temperature=temperature)
    found = {}
    for way in WAYS:
        record = fit(
            calibration if way.promise == "bound" else selection,
            max_accuracy_drop=way.config.max_accuracy_drop,
            max_nll_rise=way.config.max_nll_rise,
            asked=way.promise == "estimate",
            path=path_per_depth if way.per_depth else one_threshold,
        )
        if record is not None:
            record = record.model_copy(update={"promise": way.promise})
        found[way.name] = cascade_kept(record, rest, weights_M, temperature)
    return found


def abstentions(
    calibration: Answers, rest: Answers, weights_M: Sequence[float], temperature: float
) -> dict[str, Any]:
    """Bound the share of wrong answers on validation, and count it on the rest."""
    probs_NK, rest_NK = (
        mean_probabilities(part.probs_MNK, weights_M, temperature) for part in (calibration, rest)
    )
    record = bound_errors(probs_NK, calibration.labels_N)
    wrong_N = rest_NK.argmax(axis=1) != rest.labels_N
    found: dict[str, Any] = {}
    for risk in RISKS:
        point = record.at(risk)
        kept: dict[str, Any] = {"given": point is not None, "broken": False}
        if point is not None:
            given_N = answered(point, rest_NK)
            error = float(wrong_N[given_N].mean()) if given_N.any() else 0.0
            kept |= {
                "broken": error > risk, "answered": float(given_N.mean()), "error": error,
            }  # fmt: skip
        found[f"at most {risk:.0%} wrong"] = kept
    return found


def one_threshold(exits: Exits, _: Floats) -> list[Choice]:
    """The same threshold at every depth."""
    return path_through([0] * (len(exits.nll_MN) - 1))


def cascade_kept(
    record: CascadeRecord | None, rest: Answers, weights_M: Sequence[float], temperature: float
) -> dict[str, Any]:
    """What a cascade costs and loses on the rest, and whether that is within its limits."""
    if record is None:
        return {"given": False, "broken": False, "members": len(weights_M)}
    point = record.point()
    probs_NK, used_N = run_cascade(rest.probs_MNK, record.at(point, weights_M), temperature)
    full_NK = mean_probabilities(rest.probs_MNK, weights_M, temperature)
    kept_N = full_NK[np.arange(len(rest)), probs_NK.argmax(axis=1)]
    drop = float((full_NK.max(axis=1) - kept_N).mean())
    rise = nll_rise(nll(probs_NK, rest.labels_N), nll(full_NK, rest.labels_N))
    covered_N, _ = covered_and_sizes(probs_NK, rest.labels_N, point.sets[0])
    return {
        "given": True,
        "broken": drop > record.max_accuracy_drop or rise > record.max_nll_rise,
        "members": float(used_N.mean()),
        "accuracy_drop": drop,
        "accuracy_drop_counted": accuracy(full_NK, rest.labels_N)
        - accuracy(probs_NK, rest.labels_N),
        "nll_rise": rise,
        "sets_of_90_hold": float(covered_N.mean()),
    }


def int8_kept(
    val: Answers, rest: Answers, val_int8_MNK: Floats, rest_int8_MNK: Floats, promise: Promise
) -> dict[str, Any]:
    """Whether int8 is taken on validation, and is then within its limits on the rest."""
    weights_M = [1 / len(val.probs_MNK)] * len(val.probs_MNK)
    config = ExportConfig(int8_gate=promise)
    try:
        judge_int8(val.probs_MNK, val_int8_MNK, weights_M, val.labels_N, config.int8_limits)
    except QuantizationRefused:
        return {"given": False, "broken": False}
    return {"given": True, "broken": beyond(rest, rest_int8_MNK) > 1}


def beyond(answers: Answers, int8_MNK: Floats) -> float:
    """The largest of what int8 changes, in units of its limits."""
    before_NK, after_NK = mean_probabilities(answers.probs_MNK), mean_probabilities(int8_MNK)
    labels_N, limits = answers.labels_N, DEFAULTS.int8_limits
    changed = (before_NK.argmax(axis=1) != after_NK.argmax(axis=1)).mean()
    return max(
        (accuracy(before_NK, labels_N) - accuracy(after_NK, labels_N)) / limits.max_accuracy_drop,
        nll_rise(nll(after_NK, labels_N), nll(before_NK, labels_N)) / limits.max_nll_rise,
        float(changed) / (1 - limits.min_agreement),
    )


def enlarged(answers: Answers, int8_MNK: Floats) -> Floats:
    """int8 with its differences in logits enlarged until it is beyond a limit by a tenth."""
    before_MNK, after_MNK = (
        np.log(np.maximum(probs_MNK, 1e-12)) for probs_MNK in (answers.probs_MNK, int8_MNK)
    )

    def times(factor: float) -> Floats:
        return softmax(before_MNK + factor * (after_MNK - before_MNK))

    return times(smallest(lambda factor: beyond(answers, times(factor)) >= 1.1))


def smallest(found: Callable[[float], bool]) -> float:
    """The smallest number up to 1,000 for which something is found, to a percent."""
    low, high = 0.01, 1000.0
    while high / low > 1.01:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def over_splits(splits: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """By way: how often a promise was given and broken, and the means of those that were given."""
    found = {}
    for way in splits[0]:
        each = [split[way] for split in splits]
        given = [one for one in each if one["given"]]
        found[way] = {
            "splits": len(each),
            "given": len(given),
            "broken": sum(one["broken"] for one in each),
            "largest_nll_rise": max((one.get("nll_rise", 0.0) for one in given), default=None),
            **{
                name: float(np.mean([one[name] for one in given]))
                for name in (given[0] if given else {})
                if name not in ("given", "broken")
            },
            # Where there is no cascade, every member is asked.
            **(
                {"members": float(np.mean([one["members"] for one in each]))}
                if "members" in each[0]
                else {}
            ),
        }
    return found


def table(figures: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per population, number of validation images and way."""
    rows: list[tuple[str, ...]] = [
        (
            "population", "validation images", "promise", "given", "broken", "95 % interval",
            "members per image", "answered", "of these wrong", "NLL rise, mean (largest)",
            "expected drop, points", "counted", "sets of 90 % hold",
        )
    ]  # fmt: skip
    for each in figures:
        for kind in KINDS:
            for way, found in each.get(kind, {}).items():
                interval = binomtest(found["broken"], found["splits"]).proportion_ci()
                rows.append(
                    (
                        each["name"],
                        f"{each['validation']:,}",
                        f"{kind}, {way}",
                        f"{found['given']} of {found['splits']}",
                        f"{found['broken'] / found['splits']:.0%}",
                        f"{interval.low:.0%} to {interval.high:.0%}",
                        *columns_of(found, each["members"]),
                    )
                )
    return rows


def columns_of(found: dict[str, Any], members: int) -> tuple[str, ...]:
    """What an image costs, which are answered, and what is lost, where that is known."""
    return (
        f"{found['members']:.2f} of {members}" if "members" in found else "",
        *((f"{found['answered']:.0%}", f"{found['error']:.2%}") if "error" in found else ("", "")),
        *(losses(found) if "nll_rise" in found else ("",) * 4),
    )


def losses(found: dict[str, Any]) -> tuple[str, ...]:
    """What the cascades that were given lose on the rest."""
    return (
        f"{found['nll_rise']:+.2%} ({found['largest_nll_rise']:+.2%})",
        f"{100 * found['accuracy_drop']:.3f}",
        f"{100 * found['accuracy_drop_counted']:+.3f}",
        f"{found['sets_of_90_hold']:.1%}",
    )


if __name__ == "__main__":
    main()
