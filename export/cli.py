"""`snapensemble export`: run directories -> a bundle directory."""

import argparse
from pathlib import Path

from contracts.bundle import BundleManifest
from export.select import DEFAULT_MEMBERS, METRICS, RULES


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
        "--members", type=int, metavar="M", help=f"how many ({DEFAULT_MEMBERS}, or all there are)"
    )
    parser.add_argument(
        "--select",
        choices=RULES,
        default="best",
        help="the best by --metric, the last M, or all (best)",
    )
    parser.add_argument(
        "--metric", choices=METRICS, default="nll", help="validation figure to choose by (nll)"
    )
    parser.add_argument("--name", help="the model's name for clients (the directory's name)")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")


def run(args: argparse.Namespace) -> int:
    """Export; the last line of stdout is the bundle directory."""
    from export.bundle import build_bundle

    manifest = build_bundle(
        args.run_dirs,
        args.out,
        m=args.members,
        rule=args.select,
        metric=args.metric,
        name=args.name,
        force=args.force,
    )
    print(describe(manifest))
    print(args.out)
    return 0


def describe(manifest: BundleManifest) -> str:
    """The members and their average, with their validation figures."""
    rows = [(member.name, member.val) for member in manifest.members]
    rows.append(("ensemble", manifest.val))
    wide = max(len(name) for name, _ in rows)
    lines = [f"{manifest.name} {manifest.version}: validation of each member and of their average"]
    lines += [
        f"  {name:<{wide}} nll {val.nll:.4f}  accuracy {val.accuracy:.2%}" for name, val in rows
    ]
    gap = manifest.parity.max_probability_difference
    lines.append(f"  ONNX Runtime and torch agree to {gap:.1e} in probability")
    return "\n".join(lines)
