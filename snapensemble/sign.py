"""`snapensemble sign`: a bundle and a private key -> a signature that `serve --verify-key` checks.

The password of an encrypted key comes from SNAPENSEMBLE_KEY_PASSWORD.
"""

import argparse
import os
from pathlib import Path

from snapensemble.contracts.signatures import sign_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `snapensemble sign`."""
    parser.add_argument("bundle_dir", type=Path, metavar="BUNDLE_DIR")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="PRIVATE.pem",
        help="private key of the curve P-256, P-384 or P-521; if it is encrypted, set "
        "SNAPENSEMBLE_KEY_PASSWORD",
    )


def run(args: argparse.Namespace) -> int:
    """Sign the bundle; the last line of stdout is the file with the signature."""
    print(sign_bundle(args.bundle_dir, args.key, os.environ.get("SNAPENSEMBLE_KEY_PASSWORD")))
    return 0
