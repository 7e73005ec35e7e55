"""measure_bundle(): a manifest and the members' answers -> all numbers of the page. Pure."""

from contracts.answers import Answers
from contracts.bundle import BundleManifest
from contracts.figures import all_figures, mean_probabilities
from report.bundle_figures import class_figures, growth, reliability, selective
from report.bundle_options import (
    all_set_figures,
    full_answers,
    precision_of,
    serving_options,
)
from report.bundle_records import AnswerFigures, BundleFigures, Option
from report.evidence import Evidence
from report.figures import pairwise_disagreement


def measure_bundle(bundle: BundleManifest, evidence: Evidence) -> BundleFigures:
    """Measure on the test images; where they are not at hand, on the calibration half."""
    on_test = evidence.test is not None
    shown = evidence.calibration if evidence.test is None else evidence.test
    return BundleFigures(
        name=bundle.name,
        version=bundle.version,
        split="test" if on_test else "calibration",
        images=len(shown),
        answers=answer_figures(bundle, shown, evidence) if len(shown) else None,
        speed=evidence.speed,
    )


def answer_figures(bundle: BundleManifest, shown: Answers, evidence: Evidence) -> AnswerFigures:
    """All that is measured on the images shown."""
    probs_MNK, labels_N = shown.probs_MNK, shown.labels_N
    before_NK = mean_probabilities(probs_MNK, bundle.weights_M)
    after_NK = full_answers(bundle, probs_MNK)
    disagreement_MM = pairwise_disagreement(probs_MNK)
    return AnswerFigures(
        members=tuple(all_figures(probs_NK, labels_N) for probs_NK in probs_MNK),
        growth=growth(probs_MNK, labels_N, bundle.weights_of_first),
        before=all_figures(before_NK, labels_N),
        after=all_figures(after_NK, labels_N),
        reliability_before=reliability(before_NK, labels_N),
        reliability_after=reliability(after_NK, labels_N),
        disagreement=tuple(map(tuple, disagreement_MM.tolist())),
        selective=selective(after_NK, labels_N),
        selective_single=selective(probs_MNK[0], labels_N),
        options=_options(bundle, shown, evidence),
        sets=all_set_figures(bundle, probs_MNK, labels_N, fitted_here=evidence.test is None),
        classes=class_figures(after_NK, labels_N, bundle.classes),
    )


def _options(bundle: BundleManifest, shown: Answers, evidence: Evidence) -> tuple[Option, ...]:
    """As deployed; beside it the fp32 members under the same temperatures and thresholds."""
    options = serving_options(bundle, shown.probs_MNK, shown.labels_N, precision_of(bundle))
    if evidence.fp32_test_MNK is None:
        return options
    return (
        *serving_options(bundle, evidence.fp32_test_MNK, shown.labels_N, "fp32"),
        *options,
    )
