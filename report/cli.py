"""`snapensemble report`: a run directory -> a page with pictures."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `snapensemble report`."""
    parser.add_argument(
        "run_dir", type=Path, metavar="RUN_DIR", help="made by snapensemble train, finished or not"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (RUN_DIR/report)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the numbers behind the pictures, instead of a summary",
    )


def run(args: argparse.Namespace) -> int:
    """Write the report; the last line of stdout is its page (with --json: the field `page`)."""
    from report.measure import as_json
    from report.page import summary
    from report.write import PAGE_FILE, write_report

    directory = args.out or args.run_dir / "report"
    measured = write_report(args.run_dir, directory)
    page = str(directory / PAGE_FILE)
    if args.json:
        print(json.dumps({"page": page, **as_json(measured)}, indent=2, allow_nan=False))
        return 0
    print("\n".join(summary(measured)))
    print(page)
    return 0
