"""What the members' answers to validation make of an ensemble: temperature and all else. Pure.

Shapes: M members, N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.answers import Answers
from contracts.bundle import CalibrationRecord
from contracts.cascade import CascadeRecord
from contracts.drift import ReferenceRecord
from contracts.figures import all_figures, mean_probabilities
from contracts.prediction_sets import fit_quantiles
from export.config import ExportConfig
from export.fit_cascade import fit_cascade
from export.fit_temperature import fit_temperature
from export.halves import Halves
from export.reference import fit_reference


@dataclass(frozen=True, slots=True)
class Fitted:
    """The parts of a bundle's manifest that are fitted on validation."""

    temperature: float
    calibration: CalibrationRecord
    cascade: CascadeRecord | None
    reference: ReferenceRecord
    held_out: Answers  # of the calibration half, for the report


def fit_on_validation(
    answers: Answers, split: Halves, weights_M: Sequence[float], config: ExportConfig
) -> Fitted:
    """Fit on the selection half of validation; measure on the calibration half.

    Args:
        answers: of the members, as they will be served, to all validation images.
        split: which of these images chose the members.
        weights_M: of the members, in the order of a cascade.
        config: the limits of the cascade.
    """
    selection, held_out = answers.only(split.selection_N), answers.only(split.calibration_N)
    temperature = fit_temperature(
        mean_probabilities(selection.probs_MNK, weights_M), selection.labels_N
    )
    before_NK = mean_probabilities(held_out.probs_MNK, weights_M)
    after_NK = mean_probabilities(held_out.probs_MNK, weights_M, temperature)
    return Fitted(
        temperature=temperature,
        calibration=CalibrationRecord(
            images=len(held_out.labels_N),
            before=all_figures(before_NK, held_out.labels_N),
            after=all_figures(after_NK, held_out.labels_N),
            sets=fit_quantiles(after_NK, held_out.labels_N),
        ),
        cascade=fit_cascade(
            selection,
            held_out,
            weights_M,
            temperature,
            max_accuracy_drop=config.max_accuracy_drop,
            max_nll_rise=config.max_nll_rise,
        )
        if config.cascade
        else None,
        reference=fit_reference(held_out.probs_MNK, weights_M, temperature),
        held_out=held_out,
    )
