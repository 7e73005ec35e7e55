"""`snapensemble report`: draws the page of a run, or shows the page that a bundle carries."""

import argparse
import json
from pathlib import Path

from snapensemble.contracts.bundle import BUNDLE_FILE
from snapensemble.contracts.process import printable_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble report`."""
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="a run, finished or not, or a bundle, which brings its page from the export",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to (report in the run or bundle)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the numbers behind the pictures, instead of a summary",
    )


def run(args: argparse.Namespace) -> int:
    """Show a report; the last line of stdout is its page (with --json: the field `page`)."""
    is_bundle = (args.directory / BUNDLE_FILE).exists()
    page, lines, numbers = _bundle(args) if is_bundle else _run(args)
    if args.json:
        print(json.dumps({"page": str(page), **numbers}, indent=2, allow_nan=False))
    else:
        print(printable_lines("\n".join([*lines, str(page)])))
    return 0


def _run(args: argparse.Namespace) -> tuple[Path, list[str], dict[str, object]]:
    """Draw the page of a run."""
    from snapensemble.report.html import PAGE_FILE
    from snapensemble.report.run.measure import as_json
    from snapensemble.report.run.page import summary, write_report

    directory = args.out or args.directory / "report"
    measured = write_report(args.directory, directory)
    return directory / PAGE_FILE, summary(measured), as_json(measured)


def _bundle(args: argparse.Namespace) -> tuple[Path, list[str], dict[str, object]]:
    """Read the page of a bundle, and copy it to `--out` if that is given."""
    from snapensemble.report.bundle.novelty import novelty_lines
    from snapensemble.report.bundle.page import read_bundle_report
    from snapensemble.report.bundle.words import remedy, summary

    bundle, figures, page = read_bundle_report(args.directory, args.out)
    lines = summary(bundle, figures)
    lines += [line for found in figures.novelty for line in novelty_lines(found)]
    lines += [f"{what}: {command}" for what, command in remedy(bundle, figures)]
    return page, lines, figures.model_dump(mode="json")
