"""One browser and one server for all tests, and a tab for each. Playwright is imported late."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snapensemble.server_process import server_process
from tests.browser.chromium import NoBrowser, launched
from tests.factories import make_cascade_bundle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE_MS = 20_000


def pytest_sessionstart() -> None:
    """Say once what is missing, not in every test."""
    try:
        with launched():
            pass
    except NoBrowser as error:
        pytest.exit(f"there is no browser, so nothing was tested: {error}", returncode=3)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three linear members with prediction sets and a cascade."""
    return make_cascade_bundle(tmp_path_factory.mktemp("browser") / "bundle")


@pytest.fixture(scope="session")
def server(bundle: Path) -> Iterator[str]:
    """The address of a server."""
    with server_process(bundle, "--port", "0") as (_, url):
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    with launched() as browser:
        yield browser


@pytest.fixture
def errors() -> list[str]:
    """What scripts raised, and what the page's policy refused: a test ends with none of it."""
    return []


def watched(context: "BrowserContext", errors: list[str]) -> "Page":
    """A tab whose errors are noted."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: errors.append(error.message))
    page.on("console", lambda said: errors.append(said.text) if "Policy" in said.text else None)
    return page


@pytest.fixture
def page(browser: "Browser", errors: list[str]) -> Iterator["Page"]:
    """A tab on a desk."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield watched(context, errors)
    context.close()
    assert errors == []


@pytest.fixture
def phone(browser: "Browser", errors: list[str]) -> Iterator["Page"]:
    """A tab on a phone."""
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    yield watched(context, errors)
    context.close()
    assert errors == []
