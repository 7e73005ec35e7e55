"""read_bundle_report(): the report that an export has put into a bundle."""

from pathlib import Path

from contracts.bundle import BundleManifest, read_bundle
from contracts.errors import InvalidManifest
from contracts.files import write_atomically
from report.bundle_records import FIGURES_FILE, REPORT_DIR, BundleFigures, read_figures
from report.bundle_words import export_command
from report.write import PAGE_FILE, claim_directory


def read_bundle_report(
    bundle_dir: Path, out: Path | None = None
) -> tuple[BundleManifest, BundleFigures, Path]:
    """The manifest, the numbers behind the page, and the page.

    Args:
        bundle_dir: made by the export.
        out: a directory to copy the page to; it stays where it is if not given.

    Raises:
        InvalidManifest: the bundle is damaged, or it has no report of its own.
        InvalidConfig: `out` holds a page that is no report.
        WriteFailed: `out` cannot be written.
    """
    bundle = read_bundle(bundle_dir)
    page = bundle_dir / REPORT_DIR / PAGE_FILE
    for file in (page, page.with_name(FIGURES_FILE)):
        if not file.is_file():
            raise InvalidManifest(
                f"{file} does not exist: the bundle was exported without a report, or it was "
                f"removed; to have one, export again: {export_command(bundle)}"
            )
    figures = read_figures(bundle_dir)
    if figures.version != bundle.version:
        raise InvalidManifest(
            f"{page.parent}: the report is of version {figures.version}, the bundle is "
            f"{bundle.version}; to have its own, export again: {export_command(bundle)}"
        )
    if out is not None:
        claim_directory(out)
        write_atomically(out / PAGE_FILE, page.read_bytes())
        page = out / PAGE_FILE
    return bundle, figures, page
