"""`snapensemble evaluate`: a bundle on a data set, through the engine that serves it.

Shapes: M members, d members asked, N images, K classes.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from snapensemble.contracts.abstention import RISKS, AbstentionRecord, answered
from snapensemble.contracts.bundle import BundleManifest
from snapensemble.contracts.cascade import Mode
from snapensemble.contracts.errors import Misfit
from snapensemble.contracts.metrics import Floats, Labels, summary
from snapensemble.contracts.options import Options, add_options, build
from snapensemble.contracts.prediction_sets import SetQuantile, covered_and_sizes
from snapensemble.contracts.process import printable_lines
from snapensemble.report.bundle.novelty import Scored, novelty_figures, novelty_lines
from snapensemble.report.bundle.records import NoveltyFigures
from snapensemble.serving.inference.aggregate import averaged
from snapensemble.serving.inference.engine import Engine, load_engine
from snapensemble.serving.inference.request import MemberOutputs
from snapensemble.trainer.data.dataset import SPECS
from snapensemble.trainer.data.readers import Split
from snapensemble.trainer.data.reread import reread
from snapensemble.unlike import ask_others, find_others, spread

COLUMNS = {"accuracy": ".2%", "macro_accuracy": ".2%", "nll": ".4f", "ece": ".4f", "brier": ".4f"}


class EvaluateConfig(Options):
    """The options of `snapensemble evaluate`: what is measured."""

    data: str | None = Field(
        None,
        description=f"{SPECS} (the one that the run was trained on)",
        json_schema_extra={"metavar": "SPEC"},
    )
    split: Literal["test", "val", "train"] = Field("test", description="part of the data set")
    limit: int | None = Field(
        None,
        ge=1,
        description="N images, evenly spread over the split, and as many of --unlike",
        json_schema_extra={"metavar": "N"},
    )
    mode: Mode = Field("full", description="ask every member, or as many as an image needs")
    unlike: str | None = Field(
        None,
        min_length=1,
        description="pictures of other things, a data set or any directory: how well novelty tells "
        "them from those of the split",
        json_schema_extra={"metavar": "SPEC"},
    )
    report: bool = Field(False, description="add what --unlike finds to the bundle's report")
    max_accuracy_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="accuracy that the cascade may cost, fraction (the bundle's choice)",
    )

    @model_validator(mode="after")
    def _refuse_report_of_nothing(self) -> Self:
        if self.report and self.unlike is None:
            raise Misfit("{report} shows what {unlike} finds; give both")
        return self

    @model_validator(mode="after")
    def _only_a_cascade_has_a_tolerance(self) -> Self:
        if self.max_accuracy_drop is not None and self.mode != "cascade":
            raise Misfit("{max_accuracy_drop} is what a cascade may cost; give {mode} cascade, too")
        return self


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble evaluate`."""
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    add_options(parser, EvaluateConfig)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print each member's figures and those of the averaged probabilities."""
    options = vars(args)
    bundle_dir, as_json = options.pop("bundle_dir"), options.pop("json")
    figures = evaluate(bundle_dir, **options)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        page = [figures["page"]] if "page" in figures else []
        print(printable_lines("\n".join([table(figures), *page])))
    return 0


def evaluate(bundle_dir: Path, **options: Any) -> dict[str, Any]:
    """Measure what is served, with the same members, weights, temperature, and the same engine.

    Members are always asked about every image, so that their figures can be compared.

    Args:
        bundle_dir: made by `snapensemble export`.
        options: those of EvaluateConfig.

    Returns:
        `ensemble`, for the answers of `mode`, and `members`, each with the figures of
        `contracts.metrics.summary`; `images`, how many there were; `classes_with_images`, over
        which the macro accuracy is the mean; `prediction_sets` and `abstention` if the bundle has
        any; `novelty` if there are pictures of other things, and `page`, the file that shows it,
        if it was added to the bundle's report.

    Raises:
        InvalidConfig: an option is out of bounds.
        InvalidParameter: the bundle carries no cascade, or does not know what is novel.
        InvalidData: the data set cannot be read, has no such split, or other classes or shapes.
        InvalidManifest: the bundle is damaged, or has no report that could be added to.
        WriteFailed: the report cannot be written.
    """
    config = build(EvaluateConfig, options)
    with load_engine(bundle_dir, max_accuracy_drop=config.max_accuracy_drop) as engine:
        if not config.report:
            return measured(engine, config)
        # Drawing takes a second to import, which those who only measure need not wait for.
        from snapensemble.report.bundle.page import add_novelty, read_open_report

        read_open_report(bundle_dir)  # before minutes of measuring
        figures = measured(engine, config)
    page = add_novelty(bundle_dir, NoveltyFigures(**figures["novelty"]))
    return {**figures, "page": str(page)}


def measured(engine: Engine, config: EvaluateConfig) -> dict[str, Any]:
    """What `evaluate` returns, of an engine that runs; its cascade has its point already."""
    mode, split = config.mode, config.split
    engine.check_mode(mode)
    bundle = engine.bundle
    asked = None if config.unlike is None else engine.asked((), novelty=1.0)
    others = None if config.unlike is None else find_others(config.unlike, bundle, config.limit)
    part = sample(bundle_data(bundle, config.data, split), config.limit)
    images_NCHW, labels_N = part.images_NCHW, part.labels_N
    own = [answer.whole() for answer in engine.submit(list(images_NCHW), asked=asked)]
    probs_MNK = np.stack([outputs.probs_dK for outputs in own], axis=1)
    probs_NdK = (
        engine.ask(images_NCHW, mode) if mode == "cascade" else list(probs_MNK.swapaxes(0, 1))
    )
    probs_NK = np.stack([averaged(probs_dK, bundle) for probs_dK in probs_NdK])
    members_used = float(np.mean([len(probs_dK) for probs_dK in probs_NdK]))
    sets = [measured_set(probs_NK, labels_N, quantile) for quantile in engine.sets(mode)]
    promises = engine.promises(mode)
    abstention = [] if promises is None else measured_abstention(probs_NK, labels_N, promises)
    novelty = {}
    if others is not None:
        answers = ask_others(engine, others, asked)
        novelty["novelty"] = measured_novelty(engine, config, own, answers)
    return {
        "ensemble": {**summary(probs_NK, labels_N), "members_used": members_used},
        "members": [
            {"name": member.name, **summary(probs, labels_N)}
            for member, probs in zip(bundle.members, probs_MNK, strict=True)
        ],
        **({"prediction_sets": sets} if sets else {}),
        **({"abstention": abstention} if abstention else {}),
        **novelty,
        "images": len(labels_N),
        "classes_with_images": len(np.unique(labels_N)),
        "classes": len(bundle.classes),
        "mode": mode,
        "split": split,
        "data": config.data or bundle.data.spec,
        "model": {"name": bundle.name, "version": bundle.version},
    }


def bundle_data(bundle: BundleManifest, spec: str | None = None, split: str = "test") -> Split:
    """A part of the data set that a bundle was made from, or of another one; see `reread`."""
    return reread(bundle.data, bundle.classes, bundle.image, spec=spec, split=split)


def sample(part: Split, limit: int | None) -> Split:
    """At most `limit` images of a part, evenly spread."""
    chosen = spread(len(part), limit)
    if len(chosen) == len(part):
        return part
    return Split(part.images_NCHW[chosen], part.labels_N[chosen])


def measured_set(probs_NK: Floats, labels_N: Labels, quantile: SetQuantile) -> dict[str, Any]:
    """How often a prediction set holds the right class, and how many classes it names."""
    covered_N, size_N = covered_and_sizes(probs_NK, labels_N, quantile)
    return {
        "method": quantile.method,
        "coverage": quantile.coverage,
        "covered": float(covered_N.mean()),
        "mean_size": float(size_N.mean()),
    }


def measured_abstention(
    probs_NK: Floats, labels_N: Labels, promises: AbstentionRecord
) -> list[dict[str, Any]]:
    """How many images are answered for each of `RISKS` that is promised, and how many wrongly.

    Returns:
        The risk, the share that is answered, and the share of wrong answers among them; None if
        there are no answers.
    """
    wrong_N = probs_NK.argmax(axis=1) != labels_N
    rows = []
    for risk in RISKS:
        point = promises.at(risk)
        if point is not None:
            given_N = answered(point, probs_NK)
            error = float(wrong_N[given_N].mean()) if given_N.any() else None
            rows.append({"risk": risk, "answered": float(given_N.mean()), "error": error})
    return rows


def measured_novelty(
    engine: Engine, config: EvaluateConfig, own: list[MemberOutputs], others: list[MemberOutputs]
) -> dict[str, Any]:
    """How well the bundle tells pictures of other things from its own, as NoveltyFigures."""
    bundle = engine.bundle

    def scored(data: str | None, outputs: list[MemberOutputs]) -> Scored:
        sure = [averaged(each.probs_dK[:, None], bundle).max() for each in outputs]
        distances = [each.distance for each in outputs]
        return Scored(data or bundle.data.spec, np.array(distances), np.array(sure))

    assert bundle.novelty is not None
    found = novelty_figures(
        scored(config.data, own), scored(config.unlike, others), bundle.novelty, config.split
    )
    return found.model_dump()


def table(figures: dict[str, Any]) -> str:
    """The figures as aligned columns."""
    rows = [*figures["members"], {"name": "ensemble", **figures["ensemble"]}]
    lines = [f"{figures['images']:,} images of the {figures['split']} split of {figures['data']}"]
    heads = [f"{name.split('_')[0]:>10}" for name in COLUMNS]
    lines.append("".join([f"{'':<12}", *heads]))
    for row in rows:
        values = [f"{format(row[name], spec):>10}" for name, spec in COLUMNS.items()]
        lines.append("".join([f"{row['name']:<12}", *values]))
    if figures["classes_with_images"] < figures["classes"]:
        lines.append(
            f"macro: the mean accuracy of the {figures['classes_with_images']:,} classes that have "
            f"images here, of {figures['classes']:,}"
        )
    if figures["mode"] == "cascade":
        lines.append(
            f"cascade: {figures['ensemble']['members_used']:.2f} of {len(figures['members'])} "
            "members per image"
        )
    lines += [
        f"sets of {s['coverage']:.0%} ({s['method'].replace('_', ' ')}): hold the right class for "
        f"{s['covered']:.1%}, {s['mean_size']:.2f} classes on average"
        for s in figures.get("prediction_sets", ())
    ]
    lines += [
        f"at most {a['risk']:.0%} wrong: {a['answered']:.1%} of the images are answered, "
        + ("none here" if a["error"] is None else f"{a['error']:.2%} of them wrongly")
        for a in figures.get("abstention", ())
    ]
    if (found := figures.get("novelty")) is not None:
        lines += novelty_lines(NoveltyFigures(**found))
    return "\n".join(lines)
