"""The Chromium that is on this machine, driven by Playwright. None is downloaded."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


class NoBrowser(Exception):
    """There is nothing to test a page with; the message says how to get it."""


@contextlib.contextmanager
def launched() -> Iterator["Browser"]:
    """Start the browser, without a window, and end it on leaving.

    Raises:
        NoBrowser: there is no Playwright, or no Chromium.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser(
            "Playwright is not installed; `pip install snapensemble[browser]`"
        ) from None
    given = os.environ.get("CHROMIUM")
    path = next(filter(None, map(shutil.which, (given,) if given else NAMES)), None)
    if path is None:
        raise NoBrowser(
            f"found no {given or ', '.join(NAMES)}; install one, on Debian by apt-get install "
            "chromium, or set CHROMIUM to where one is"
        )
    # A sandbox needs a user who is not root, and namespaces that containers often forbid. What is
    # opened here is our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
