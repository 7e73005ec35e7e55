"""write_report(): a run directory -> one page, and its pictures beside it."""

from pathlib import Path

from contracts.errors import InvalidConfig, WriteFailed
from contracts.files import write_atomically
from report.markup import GENERATOR
from report.measure import Measured, measure
from report.page import page
from report.pictures import FILES, pictures

PAGE_FILE = "index.html"


def write_report(run_dir: Path, directory: Path) -> Measured:
    """Write or replace `directory/index.html` and the pictures, each file whole or not at all.

    Returns:
        The numbers behind the pictures.

    Raises:
        InvalidManifest: the run is damaged.
        InvalidConfig: `directory` holds a page that is no report.
        WriteFailed: the disk is full, or `directory` cannot be written.
    """
    measured = measure(run_dir)
    drawn = pictures(measured)
    claim_directory(directory)
    for picture in drawn:
        write_atomically(directory / picture.file, picture.png)
    write_atomically(directory / PAGE_FILE, page(measured, drawn, run_dir).encode())
    for file in FILES - {picture.file for picture in drawn}:  # of another run's report
        (directory / file).unlink(missing_ok=True)
    return measured


def claim_directory(directory: Path) -> None:
    """Make a directory for a report, unless it holds a page of another kind.

    Raises:
        InvalidConfig: it does.
        WriteFailed: it cannot be made or read.
    """
    _refuse_other_pages(directory / PAGE_FILE)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteFailed(f"{directory}: cannot make it: {error.strerror}") from error


def _refuse_other_pages(path: Path) -> None:
    try:
        with path.open("rb") as file:
            ours = GENERATOR.encode() in file.read(500)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WriteFailed(f"{path}: {error.strerror}; choose another --out") from error
    if not ours:
        raise InvalidConfig(f"{path} is not a report; it is not replaced, choose another --out")
