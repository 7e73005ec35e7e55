"""write_bundle_report(): a manifest and the members' answers -> the report inside a bundle."""

from pathlib import Path

from contracts.bundle import BundleManifest
from contracts.files import write_atomically
from contracts.records import write_manifest
from report.bundle_measure import measure_bundle
from report.bundle_page import bundle_page
from report.bundle_records import FIGURES_FILE, REPORT_DIR
from report.evidence import Evidence
from report.write import PAGE_FILE, claim_directory


def write_bundle_report(directory: Path, bundle: BundleManifest, evidence: Evidence) -> None:
    """Write `directory/report/index.html` and `figures.json` beside it.

    Args:
        directory: of the bundle, while it is being made; it need not hold its manifest yet.
        bundle: the manifest as it will be written, its version included.
        evidence: what the members answer.

    Raises:
        WriteFailed: the disk is full, or the directory cannot be written.
    """
    figures = measure_bundle(bundle, evidence)
    text = bundle_page(bundle, figures)
    report_dir = directory / REPORT_DIR
    claim_directory(report_dir)
    write_manifest(report_dir / FIGURES_FILE, figures)
    write_atomically(report_dir / PAGE_FILE, text.encode())
