"""`snapensemble export`: run directories -> a bundle directory."""

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

from contracts.bundle import BundleManifest
from contracts.cascade import CascadeRecord
from contracts.records import ValFigures
from contracts.text import printable_lines
from export.config import DEFAULTS, ExportConfig, Quantize
from export.gate import Int8Limits, describe_int8
from export.select import DEFAULT_MEMBERS, METRICS, RULES, Members

CASCADE = {
    "max_accuracy_drop": "accuracy that a cascade may lose against all members, fraction",
    "max_nll_rise": "NLL that a cascade may gain against all members, relative",
}
INT8 = {
    "max_accuracy_drop": ("--max-int8-accuracy-drop", "accuracy that int8 may lose, fraction"),
    "max_nll_rise": ("--max-int8-nll-rise", "NLL that int8 may gain, relative"),
    "min_agreement": (
        "--min-int8-agreement", "images whose top class int8 must keep, fraction",
    ),
}  # fmt: skip


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
    parser.add_argument(
        "--members",
        type=members,
        metavar="M",
        help=f"how many, or auto: the fewest within one standard error of the best "
        f"({DEFAULT_MEMBERS} of best and last; greedy and exhaustive find their number)",
    )
    parser.add_argument(
        "--select",
        choices=RULES,
        default=DEFAULTS.select,
        help="the best by --metric, the last M, all, forward selection with weights, or the best "
        "of all subsets (best)",
    )
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default=DEFAULTS.metric,
        help="validation figure to choose by (nll)",
    )
    parser.add_argument(
        "--quantize",
        choices=get_args(Quantize),
        default=DEFAULTS.quantize,
        help="int8: smaller and faster members, if validation agrees (none)",
    )
    parser.add_argument(
        "--cascade",
        action=argparse.BooleanOptionalAction,
        default=DEFAULTS.cascade,
        help="fit when an image needs no further member (yes)",
    )
    limits = [
        (f"--{setting.replace('_', '-')}", setting, text, getattr(DEFAULTS, setting))
        for setting, text in CASCADE.items()
    ]
    limits += [
        (flag, f"int8_{setting}", text, getattr(DEFAULTS.int8, setting))
        for setting, (flag, text) in INT8.items()
    ]
    for flag, setting, text, default in limits:
        parser.add_argument(
            flag, dest=setting, type=float, metavar="X", default=default, help=f"{text} ({default})"
        )
    parser.add_argument(
        "--data", metavar="SPEC", help="where the data set is now (where the run found it)"
    )
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=DEFAULTS.report,
        help="measure on the test split and write the bundle's report (yes)",
    )
    parser.add_argument("--name", help="the model's name for clients (the directory's name)")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")


def members(text: str) -> Members:
    """`auto` or a number."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number or auto") from None


def run(args: argparse.Namespace) -> int:
    """Export; the last line of stdout is the bundle directory."""
    flags: dict[str, Any] = vars(args)
    run_dirs, out, force = (flags.pop(name) for name in ("run_dirs", "out", "force"))
    limits = {setting: flags.pop(f"int8_{setting}") for setting in INT8}
    config = ExportConfig(**flags, int8=Int8Limits(**limits))

    from export.bundle import build_bundle

    manifest = build_bundle(run_dirs, out, config, force=force, say=_say)
    print(describe(manifest))
    print(out)
    return 0


def describe(manifest: BundleManifest) -> str:
    """The members and their average, with their validation figures."""
    rows = [
        (member.name, member.val, f"  weight {member.weight:.3f}") for member in manifest.members
    ]
    rows.append(("ensemble", manifest.val, ""))
    wide = max(len(name) for name, *_ in rows)
    lines = [f"{manifest.name} {manifest.version}: validation of each member and of their average"]
    lines += [
        f"  {name:<{wide}} nll {val.nll:.4f}  accuracy {val.accuracy:.2%}{weight}"
        for name, val, weight in rows
    ]
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
    gap = manifest.parity.max_probability_difference
    lines.append(f"  ONNX Runtime and torch agree to {gap:.1e} in probability")
    return "\n".join(lines)


def frontier(cascade: CascadeRecord, members: int, full: ValFigures) -> list[str]:
    """The cascade's points as a table: what they cost and lose; last, what all members give."""
    chosen = cascade.point()
    lines = [
        f"  cascade ({cascade.rule}): what fewer members cost, on images that chose nothing",
        "      members  accuracy      nll   expected drop   nll rise",
    ]
    for point in cascade.points:
        mark = "->" if point is chosen else "  "
        lines.append(
            f"   {mark} {point.members_per_image:7.2f}  {point.val.accuracy:8.2%}  "
            f"{point.val.nll:7.4f}   {100 * point.accuracy_drop:6.2f} points   "
            f"{point.nll_rise:8.2%}"
        )
    lines.append(f"   all {members:6.2f}  {full.accuracy:8.2%}  {full.nll:7.4f}")
    return lines


def _say(text: str) -> None:
    print(printable_lines(f"snapensemble export: {text}"), file=sys.stderr)
