"""`snapensemble export`: run directories -> a bundle directory."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapensemble.contracts.bundle import BundleManifest, Gain, Price
from snapensemble.contracts.cascade import CascadeRecord
from snapensemble.contracts.manifest import ValFigures
from snapensemble.contracts.novelty import FALSE_ALARMS, NoveltyRecord
from snapensemble.contracts.options import add_options, build
from snapensemble.contracts.process import printable_lines
from snapensemble.export.config import ExportConfig

FEWEST_IMAGES = 2  # that can tell a gain from chance
FEWEST_FOR_NOVELTY = round(1 / max(FALSE_ALARMS)) - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble export`."""
    parser.add_argument(
        "run_dirs",
        type=Path,
        nargs="+",
        metavar="RUN_DIR",
        help="made by snapensemble train; several of the same data are pooled",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE_DIR")
    add_options(parser, ExportConfig)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")


def run(args: argparse.Namespace) -> int:
    """Export; the last line of stdout is the bundle directory."""
    flags: dict[str, Any] = vars(args)
    run_dirs, out, force = (flags.pop(name) for name in ("run_dirs", "out", "force"))
    config = build(ExportConfig, flags)

    from snapensemble.export.bundle import build_bundle

    manifest = build_bundle(run_dirs, out, config, force=force, say=_say)
    print(describe(manifest))
    print(out)
    return 0


def describe(manifest: BundleManifest) -> str:
    """The members and their average, with their validation figures."""
    from snapensemble.export.acceptance import describe_int8  # scipy is slow to import

    rows = [
        (member.name, member.val, f"  weight {member.weight:.3f}") for member in manifest.members
    ]
    rows.append(("ensemble", manifest.val, ""))
    wide = max(len(name) for name, *_ in rows)
    lines = [f"{manifest.name} {manifest.version}: validation of each member and of their average"]
    lines += [f"  {name:<{wide}} {val.in_words}{weight}" for name, val, weight in rows]
    if manifest.class_prior == "uniform":
        lines.append(
            "  class prior uniform: answers are for equally frequent classes, which macro accuracy "
            "measures; the other figures count validation images as they come"
        )
    if manifest.price is not None:
        lines.append(f"  {describe_price(manifest.price)}")
    if manifest.selection.reason is not None:
        lines.append(f"  chosen: {manifest.selection.reason}")
    images = 0 if manifest.calibration is None else manifest.calibration.images
    lines += [f"  {sentence}" for sentence in describe_gains(manifest.selection.gains, images)]
    if manifest.calibration is not None:
        before, after = manifest.calibration.before, manifest.calibration.after
        lines.append(
            f"  temperature {manifest.temperature:.3f}: on the {manifest.calibration.images:,} "
            f"images that chose nothing nll {before.nll:.4f} -> {after.nll:.4f}, "
            f"ECE {before.ece:.4f} -> {after.ece:.4f}"
        )
    if manifest.quantization is not None:
        lines.append(f"  int8: {describe_int8(manifest.quantization)}")
    if manifest.cascade is not None:
        assert manifest.calibration is not None
        lines += frontier(manifest.cascade, len(manifest.members), manifest.calibration.after)
    elif len(manifest.members) > 1:
        lines.append("  no cascade")
    if manifest.novelty is not None:
        lines.append(f"  {describe_novelty(manifest.novelty)}")
    gap = manifest.parity.max_probability_difference
    lines.append(f"  ONNX Runtime and torch agree to {gap:.1e} in probability")
    return "\n".join(lines)


def describe_price(price: Price) -> str:
    """What an image takes, in all and against a single network."""
    total = _millions(price.trunk + sum(price.members))
    share = f", of which the shared trunk {_millions(price.trunk)}" if price.trunk else ""
    return (
        f"an image takes {total} million operations{share}: the price of "
        f"{price.in_single_networks:.2f} networks"
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


def describe_gains(gains: Sequence[Gain], images: int) -> list[str]:
    """A sentence for each single network: what was gained over it, or that nothing was.

    Args:
        gains: as the manifest has them.
        images: that chose nothing, and on which they were measured.
    """
    if images < FEWEST_IMAGES:
        return ["one image that chose nothing cannot say what is gained over the last snapshot"]
    if not any(gain.over == "last" for gain in gains):
        return ["nothing is gained over the last snapshot: it is served alone"]
    return [_described(gain) for gain in gains]


def describe_novelty(record: NoveltyRecord) -> str:
    """Which shares of false alarms a client may ask for, or that there are none."""
    on = f"the {record.images:,} images that chose nothing"
    if shares := [f"{each.false_alarms:.0%}" for each in record.thresholds]:
        return f"novelty: false alarms of {', '.join(shares)} are promised, from {on}"
    return (
        f"novelty: nothing can be promised from {on}, so nobody can ask for it; "
        f"{FEWEST_FOR_NOVELTY} would do for false alarms of {max(FALSE_ALARMS):.0%}"
    )


def _described(gain: Gain) -> str:
    name = {"last": "the last snapshot", "best_single": "the best single network"}[gain.over]
    (nll, low, high), (_, right_low, right_high) = gain.nll, gain.accuracy
    gained, lost = low > 0 or right_low > 0, high < 0 or right_high < 0
    if gained and lost:
        verdict = "in one figure gained over, in the other lost against"
    elif gained or lost:
        verdict = "gained over" if gained else "lost against"
    else:
        verdict = "nothing that chance could not give is gained over"
    macro = (
        "" if gain.macro_accuracy is None else f"macro accuracy {_points(gain.macro_accuracy)}, "
    )
    return (
        f"{verdict} {name} ({gain.member}): NLL {-nll:+.4f} ({-high:+.4f} to {-low:+.4f}), "
        f"accuracy {_points(gain.accuracy)}, {macro}"
        f"{gain.confidence:.0%} intervals on the {gain.images:,} images that chose nothing"
    )


def _points(interval: tuple[float, float, float]) -> str:
    mean, low, high = (f"{100 * end:+.2f}" for end in interval)
    return f"{mean} points ({low} to {high})"


def frontier(cascade: CascadeRecord, members: int, full: ValFigures) -> list[str]:
    """The cascade's points as a table: what they cost and lose; last, what all members give."""
    chosen = cascade.point()
    promise, drop_head, rise_head = (
        ("an estimate, which is no promise", "expected drop", "nll rise")
        if cascade.promise == "estimate"
        else (f"losses with {cascade.confidence:.0%} confidence", "drop at most", "rise at most")
    )
    lines = [
        f"  cascade: what fewer members cost; {promise}",
        f"      members  accuracy      nll   {drop_head:>13}   {rise_head:>12}",
    ]
    for point in cascade.points:
        mark = "->" if point is chosen else "  "
        drop, rise = cascade.kept_by(point)
        lines.append(
            f"   {mark} {point.members_per_image:7.2f}  {point.val.accuracy:8.2%}  "
            f"{point.val.nll:7.4f}   {100 * drop:6.2f} points   {rise:12.2%}"
        )
    lines.append(f"   all {members:6.2f}  {full.accuracy:8.2%}  {full.nll:7.4f}")
    return lines


def _say(text: str) -> None:
    print(printable_lines(f"snapensemble export: {text}"), file=sys.stderr)
