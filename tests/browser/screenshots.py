"""Pictures of the page and of a bundle's report: `make screenshots`.

Without `--bundle` the demo's bundle is trained first, half a minute on one core. `--all DIR` writes
each picture on a desk and on a phone, by day and by night, to look at.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from snapensemble.demo import demo_config, write_images
from snapensemble.server_process import server_process
from tests.browser.chromium import launched

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MAX_BYTES = 200_000
COLOURS = 256
README: dict[str, Any] = {"viewport": {"width": 860, "height": 1200}, "device_scale_factor": 2}
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="a bundle with a report")
    parser.add_argument("--all", type=Path, metavar="DIR", help="every size and colour scheme")
    parser.add_argument("pictures", type=Path, nargs="*", help="what to ask the bundle about")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bundle, pictures = args.bundle, args.pictures
        if bundle is None:
            bundle, pictures = demo_bundle(Path(directory))
        if not pictures:
            parser.error("name the pictures to ask the bundle about")
        report = (bundle / "report" / "index.html").resolve().as_uri()
        with server_process(bundle, "--port", "0") as (_, url), launched() as browser:
            if args.all is None:
                take_page(browser, url, pictures, IMAGES / "page.png", README)
                take_report(browser, report, IMAGES / "report.png", README)
                return
            for size, options in (("desk", DESK), ("phone", PHONE)):
                for scheme in ("light", "dark"):
                    name, look = f"{size}-{scheme}.png", {**options, "color_scheme": scheme}
                    take_page(browser, url, pictures, args.all / f"page-{name}", look)
                    take_report(browser, report, args.all / f"report-{name}", look)


def demo_bundle(directory: Path) -> tuple[Path, list[Path]]:
    """The demo's bundle, with several members to see, and pictures that were held out."""
    from snapensemble.export.bundle import build_bundle
    from snapensemble.export.config import ExportConfig
    from snapensemble.trainer.run import train

    run, bundle = directory / "run", directory / "bundle"
    train(demo_config(run))
    build_bundle(run, bundle, ExportConfig(name="digits"))
    files, _ = write_images(bundle, directory / "images")
    broken = directory / "images" / "letter.png"
    broken.write_bytes(b"no picture")
    return bundle, [files[5], *files[2:4], broken]


def take_page(
    browser: "Browser", url: str, pictures: Sequence[Path], file: Path, options: dict[str, Any]
) -> None:
    """Ask about the pictures; open what members said of the first, and why."""
    page = browser.new_page(**options)
    page.goto(url)
    page.locator("#files").set_input_files(pictures)
    page.locator("li:not([aria-busy=true])").nth(len(pictures) - 1).wait_for()
    for selector in (".members summary", ".why"):
        opened = page.locator("li").first.locator(selector)
        if opened.is_visible():
            opened.click()
    if page.locator("figure:visible").count():
        page.locator(".stage canvas").nth(1).wait_for()
    for thumbnail in page.locator(".thumb").all():
        thumbnail.scroll_into_view_if_needed()
        thumbnail.locator(":scope:not(:empty)").wait_for()
    save(page, file)


def take_report(browser: "Browser", address: str, file: Path, options: dict[str, Any]) -> None:
    """Open the report; for the README the top of it is enough."""
    page = browser.new_page(**options)
    page.goto(address)
    save(page, file, whole=options is not README)


def save(page: "Page", file: Path, *, whole: bool = True) -> None:
    """Write what the page shows as a PNG file, with few colours if it would be large."""
    file.parent.mkdir(parents=True, exist_ok=True)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=file, full_page=whole)
    page.close()
    if file.stat().st_size > MAX_BYTES:
        Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
            file, optimize=True
        )
    size = file.stat().st_size
    print(f"{file}: {size:,} bytes" + (f", more than {MAX_BYTES:,}" if size > MAX_BYTES else ""))


if __name__ == "__main__":
    main()
