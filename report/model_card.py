"""What a bundle is for, how it was made and what it cannot promise, in plain words."""

from contracts.bundle import BundleManifest
from contracts.records import Figures
from report.markup import percents

LISTED = 50  # classes that the card names; the manifest has all


def model_card(bundle: BundleManifest) -> list[tuple[str, str]]:
    """Headings and texts, all of them from the manifest."""
    rows = [
        ("Model", _model(bundle)),
        ("Input", _input(bundle)),
        ("Classes", _classes(bundle)),
        ("Intended use", _use(bundle)),
        ("Not for", _misuse()),
        ("Data", _data(bundle)),
        ("Training", _training(bundle)),
        ("Selection", _selection(bundle)),
        ("Calibration", _calibration(bundle)),
        ("Cascade", _cascade(bundle)),
        ("int8", _quantization(bundle)),
        ("Parity", _parity(bundle)),
    ]
    return [(heading, text) for heading, text in rows if text]


def _model(bundle: BundleManifest) -> str:
    return (
        f"{bundle.name} {bundle.version}: {len(bundle.members)} x {bundle.model} as ONNX (opset "
        f"{bundle.opset}), the weighted average of their probabilities; made by snapensemble "
        f"{bundle.snapensemble}."
    )


def _input(bundle: BundleManifest) -> str:
    image = bundle.image
    kind = "grey" if image.channels == 1 else "RGB"
    return (
        f"One picture, as {image.height} x {image.width} {kind} pixels: scaled until it covers "
        "that frame, the overhang cut off evenly."
    )


def _classes(bundle: BundleManifest) -> str:
    names, more = bundle.classes[:LISTED], len(bundle.classes) - LISTED
    tail = f" and {more:,} more, listed in ensemble.json" if more > 0 else ""
    return f"{len(bundle.classes):,}: {', '.join(names)}{tail}."


def _use(bundle: BundleManifest) -> str:
    return (
        f"Classifying images like those of {bundle.data.spec}, taken and framed as they were, "
        "into these classes."
    )


def _misuse() -> str:
    return (
        "Images of anything else: there is no answer that says none of these. Nothing here was "
        "measured on other sources, on manipulated images, or by groups of people."
    )


def _data(bundle: BundleManifest) -> str:
    data = bundle.data
    return (
        f"{data.spec}: {data.train_images:,} images taught, {data.val_images:,} are for "
        f"validation and {data.test_images:,} for the test (split seed {data.split_seed}, "
        f"fingerprint {data.fingerprint[:12]}). The licence of the data is unknown: a bundle does "
        "not record it."
    )


def _training(bundle: BundleManifest) -> str:
    runs = len({member.run for member in bundle.members})
    where = "one training run" if runs == 1 else f"{runs} training runs of the same data"
    return (
        f"Members are snapshots of {where}, taken at the end of learning-rate cycles. The settings "
        "are in the run's own report, not in the bundle."
    )


def _selection(bundle: BundleManifest) -> str:
    chosen = bundle.selection
    images = (
        f"{chosen.images:,} of the validation images"
        if chosen.images is not None
        else "the validation images"
    )
    return (
        f"Rule {chosen.rule} by {'NLL' if chosen.metric == 'nll' else 'accuracy'}: "
        f"{len(bundle.members)} of {chosen.candidates} snapshots, on {images}. No test image "
        "chose anything."
    )


def _calibration(bundle: BundleManifest) -> str:
    text = f"Temperature {bundle.temperature:.4g} on the averaged probabilities."
    found = bundle.calibration
    if found is None:
        return text
    return (
        f"{text} On the {found.images:,} validation images that chose no member: "
        f"{_both(found.before, found.after)}."
    )


def _both(before: Figures, after: Figures) -> str:
    return (
        f"NLL {before.nll:.4f} without it and {after.nll:.4f} with it, "
        f"ECE {before.ece:.4f} and {after.ece:.4f}"
    )


def _cascade(bundle: BundleManifest) -> str:
    if bundle.cascade is None:
        return "None: every member is asked about every image."
    point = bundle.cascade.point()
    return (
        f"Rule {bundle.cascade.rule}, {len(bundle.cascade.points)} choices of thresholds. The one "
        f"in use asks {point.members_per_image:.2f} members per image on validation, at an "
        f"expected accuracy drop of {percents(point.accuracy_drop)} against asking all."
    )


def _quantization(bundle: BundleManifest) -> str:
    found = bundle.quantization
    if found is None:
        return ""
    return (
        f"On {found.images:,} validation images int8 gives the same top class as fp32 to "
        f"{percents(found.agreement)}. {_change('Accuracy', -found.accuracy_drop)} (a fall of "
        f"{percents(found.max_accuracy_drop)} was allowed). {_change('NLL', found.nll_rise)} of "
        f"itself (a rise of {percents(found.max_nll_rise)} was allowed)."
    )


def _change(what: str, rise: float) -> str:
    return f"{what} {'falls' if rise < 0 else 'rises'} by {percents(abs(rise))}"


def _parity(bundle: BundleManifest) -> str:
    found = bundle.parity
    sizes = ", ".join(map(str, found.batch_sizes))
    return (
        f"ONNX Runtime and torch differ by at most {found.max_logit_difference:.1e} in a logit and "
        f"{found.max_probability_difference:.1e} in a probability, at batch sizes {sizes}."
    )


def limits(bundle: BundleManifest) -> list[str]:
    """What the figures do not promise."""
    data = bundle.data
    found = ["Every image gets one of the classes, also one that shows none of them."]
    if bundle.calibration is not None and bundle.calibration.sets:
        found.append(
            f"Prediction sets, fitted on {bundle.calibration.images:,} images, hold the right "
            "class at least as often as promised, on average over images drawn like the "
            "validation images; not in each class, and not for each image."
        )
    what = "The temperature was" if bundle.cascade is None else "Temperatures and thresholds were"
    found += [
        f"{what} fitted on images of the validation part, which has {data.val_images:,}; "
        "with few, another draw would have given others.",
        "How confidence behaves on images unlike the validation images was not measured.",
    ]
    return found
