"""Which order, which thresholds and which precision make the cheapest cascade?

    python -m benchmarks.export.cascade_variants RUN_DIR [--data SPEC]

All snapshots of a run are members. Every variant is fitted on validation within the default limits,
by bounds where these can be had, and measured on the test split, against the average of every fp32
member. Thresholds are the same at each depth, or each depth has its own.
An int8 member costs what it takes of an fp32 one's time on this machine, at 16 images on one
thread.

Shapes: M members, N images, K classes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.export.promises import one_threshold
from benchmarks.machine import save
from snapensemble.contracts.cascade import run_cascade
from snapensemble.contracts.metrics import (
    Answers,
    accuracy,
    mean_probabilities,
    nll,
    nll_rise,
    softmax,
)
from snapensemble.contracts.run import read_run
from snapensemble.export.calibration import split_validation
from snapensemble.export.candidates import pooled
from snapensemble.export.cascade import fit_cascade, path_per_depth
from snapensemble.export.config import DEFAULTS
from snapensemble.export.int8.quantize import to_int8
from snapensemble.export.onnx_export import to_onnx
from snapensemble.export.parity import run_file
from snapensemble.export.report_inputs import compare_speed
from snapensemble.export.selection import select
from snapensemble.export.temperature import fit_temperature
from snapensemble.trainer.data.reread import reread
from snapensemble.trainer.recording.snapshots import load_model

PATHS = {"one threshold": one_threshold, "per depth": path_per_depth}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--data", metavar="SPEC", help="where the data set is now")
    parser.add_argument("--name", default="cascade-variants", help="of the result files")
    args = parser.parse_args()
    answers, times = all_answers(args.run, args.data)
    reference = full(answers["fp32"])
    rows = [variant(*each, answers, times, reference) for each in variants(answers)]
    save(args.name, {"member_times": times, "variants": rows}, table(rows))


def all_answers(
    run_dir: Path, data: str | None
) -> tuple[dict[str, dict[str, Answers]], dict[str, float]]:
    """The fp32 and int8 answers to both halves of validation and to test, and their costs."""
    pool, run = pooled([run_dir]), read_run(run_dir)
    parts = {
        name: reread(run.data, run.classes, run.image, spec=data, split=name)
        for name in ("val", "test")
    }
    calibration_NCHW = pool.calibration_images()
    models = [load_model(run_dir, run, snapshot) for snapshot in run.snapshots]
    fp32 = [to_onnx(model, run.image) for model in models]
    files = {"fp32": fp32, "int8": [to_int8(file, calibration_NCHW) for file in fp32]}
    speed = compare_speed(files["fp32"][:1], files["int8"][:1], calibration_NCHW)
    split = split_validation(parts["val"].labels_N)
    answers = {}
    for precision, members in files.items():
        val, test = (
            Answers(
                softmax(np.stack([run_file(file, part.images_NCHW) for file in members])),
                part.labels_N,
            )
            for part in parts.values()
        )
        answers[precision] = {
            "selection": val.only(split.selection_N),
            "calibration": val.only(split.calibration_N),
            "test": test,
        }
    return answers, {"fp32": 1.0, "int8": 1 / speed[-1].ratio}


def variants(answers: dict[str, dict[str, Answers]]) -> list[tuple[str, str, list[str], list[int]]]:
    """The variants: name, thresholds, precision by position, and order of the members."""
    selection = answers["fp32"]["selection"]
    gain = list(select(selection.probs_MNK, selection.labels_N, rule="all").indices)
    M = len(gain)
    alone = [nll(probs_NK, selection.labels_N) for probs_NK in selection.probs_MNK]
    quality = sorted(range(M), key=lambda i: alone[i])
    latest = list(reversed(range(M)))
    fp32, int8 = ["fp32"] * M, ["int8"] * M
    orders = {"gain": gain, "quality alone": quality, "latest": latest, "worst": quality[::-1]}
    found = [
        (f"fp32, {path}, by {name}", path, fp32, order)
        for name, order in orders.items()
        for path in (PATHS if name == "gain" else ("per depth",))
    ]
    found += [(f"int8, {path}, by gain", path, int8, gain) for path in PATHS]
    found += [
        (f"first {k} int8, then fp32, per depth, by gain", "per depth", int8[:k] + fp32[k:], gain)
        for k in range(1, M)
    ]
    return found


def variant(
    name: str,
    path: str,
    precisions: list[str],
    order: list[int],
    answers: dict[str, dict[str, Answers]],
    times: dict[str, float],
    reference: dict[str, float],
) -> dict[str, Any]:
    """Fit on validation, measure on test."""
    parts = {
        part: Answers(
            np.stack(
                [answers[p][part].probs_MNK[i] for p, i in zip(precisions, order, strict=True)]
            ),
            answers["fp32"][part].labels_N,
        )
        for part in ("selection", "calibration", "test")
    }
    M = len(order)
    weights_M = [1 / M] * M
    selection, test = parts["selection"], parts["test"]
    temperature = fit_temperature(
        mean_probabilities(selection.probs_MNK, weights_M), selection.labels_N
    )
    record = fit_cascade(
        selection,
        parts["calibration"],
        weights_M,
        temperature,
        max_accuracy_drop=DEFAULTS.max_accuracy_drop,
        max_nll_rise=DEFAULTS.max_nll_rise,
        asked=True,
        path=PATHS[path],
    )
    if record is None:
        return {"name": name, "order": order, "cost": sum(times[p] for p in precisions)}
    cascade = record.at(record.point(), weights_M)
    probs_NK, used_N = run_cascade(test.probs_MNK, cascade, temperature)
    time_at_depth = np.cumsum([times[p] for p in precisions])
    return {
        "name": name,
        "order": order,
        "promise": record.promise,
        "thresholds": cascade.thresholds,
        "members": float(used_N.mean()),
        "cost": float(time_at_depth[used_N - 1].mean()),
        "accuracy": accuracy(probs_NK, test.labels_N),
        "accuracy_drop": reference["accuracy"] - accuracy(probs_NK, test.labels_N),
        "nll": nll(probs_NK, test.labels_N),
        "nll_rise": nll_rise(nll(probs_NK, test.labels_N), reference["nll"]),
    }


def full(answers: dict[str, Answers]) -> dict[str, float]:
    """Test figures of the average of every member."""
    selection, test = answers["selection"], answers["test"]
    temperature = fit_temperature(mean_probabilities(selection.probs_MNK), selection.labels_N)
    probs_NK = mean_probabilities(test.probs_MNK, None, temperature)
    return {"accuracy": accuracy(probs_NK, test.labels_N), "nll": nll(probs_NK, test.labels_N)}


def table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per variant."""
    lines: list[tuple[str, ...]] = [
        (
            "cascade",
            "promise",
            "members",
            "cost in fp32 members",
            "accuracy",
            "drop, points",
            "NLL",
            "rise",
        )
    ]
    for row in rows:
        if "members" not in row:
            lines.append((row["name"], "no cascade", "", f"{row['cost']:.2f}", "", "", "", ""))
            continue
        lines.append(
            (
                row["name"],
                row["promise"],
                f"{row['members']:.2f}",
                f"{row['cost']:.2f}",
                f"{row['accuracy']:.2%}",
                f"{100 * row['accuracy_drop']:+.2f}",
                f"{row['nll']:.4f}",
                f"{row['nll_rise']:+.2%}",
            )
        )
    return lines


if __name__ == "__main__":
    main()
