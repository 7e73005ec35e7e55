"""What may be installed: no version with a published hole, and only what is pinned.

`make audit` asks the index about the pins; this test asks nobody, and holds the lower bounds too.
"""

import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
PINS = {
    canonicalize_name(name): Version(version)
    for name, _, version in (
        line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
    )
}
# Package: the first version without any hole that had been published in November 2026, and the
# latest that was mended there.
MENDED = {
    "click": ("8.3.3", "PYSEC-2026-2132"),
    "cryptography": ("48.0.1", "GHSA-537c-gmf6-5ccf"),
    "grpcio": ("1.84.0", "grpc/grpc#43012"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "onnx": ("1.21.0", "CVE-2026-27489"),
    "pillow": ("12.3.0", "PYSEC-2026-2257"),
    "protobuf": ("6.33.5", "CVE-2026-0994"),
    "pyarrow": ("23.0.1", "CVE-2026-25087"),
    "pydantic-settings": ("2.14.2", "GHSA-4xgf-cpjx-pc3j"),
    "pygments": ("2.20.0", "GHSA-5239-wwwm-4pmq"),
    "pyjwt": ("2.13.0", "PYSEC-2026-179"),
    "pytest": ("9.0.3", "CVE-2025-71176"),
    "python-multipart": ("0.0.31", "CVE-2026-53540"),
    "requests": ("2.33.0", "GHSA-gc5v-m9x4-r6x2"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206"),
    "starlette": ("1.3.1", "CVE-2026-54283"),
    "torch": ("2.10.0", "CVE-2026-24747"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
    "urllib3": ("2.7.0", "CVE-2026-44432"),
    "werkzeug": ("3.1.6", "CVE-2026-27199"),
}
OURS = [
    (extra, Requirement(line))
    for extra, lines in EXTRAS.items()
    for line in lines
    if not line.startswith("snapensemble[")
]


def lower_bound(requirement: Requirement) -> Version | None:
    """The version from which on a requirement is satisfied."""
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    return Version(bounds[0]) if len(bounds) == 1 else None


@pytest.mark.parametrize(("extra", "requirement"), OURS, ids=str)
def test_every_requirement_has_a_lower_bound_which_its_pin_satisfies(
    extra: str, requirement: Requirement
) -> None:
    assert lower_bound(requirement) is not None
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize(("extra", "requirement"), OURS, ids=str)
def test_no_lower_bound_admits_a_version_with_a_published_hole(
    extra: str, requirement: Requirement
) -> None:
    mended, advisory = MENDED.get(canonicalize_name(requirement.name), ("0", ""))
    bound = lower_bound(requirement)
    assert bound is not None and bound >= Version(mended), advisory


@pytest.mark.parametrize("name", MENDED)
def test_no_pin_is_a_version_with_a_published_hole(name: str) -> None:
    mended, advisory = MENDED[name]
    assert PINS[canonicalize_name(name)] >= Version(mended), advisory


def test_the_script_of_the_docs_page_has_no_published_hole() -> None:
    """Advisories for Python packages say nothing of the script in one."""
    spec = importlib.util.find_spec("fastapi_standalone_docs")
    assert spec is not None and spec.origin is not None
    script = Path(spec.origin).with_name("static") / "swagger" / "swagger-ui-bundle.js"
    (version,) = re.findall(r'PACKAGE_VERSION:"([\d.]+)"', script.read_text())
    assert Version(version) >= Version("5.32.7"), "CVE-2026-49978, in the DOMPurify of Swagger UI"


def test_a_package_has_one_lower_bound_in_all_extras() -> None:
    bounds: dict[str, set[str]] = {}
    for _, requirement in OURS:
        bounds.setdefault(canonicalize_name(requirement.name), set()).add(
            str(requirement.specifier)
        )
    assert not {name: found for name, found in bounds.items() if len(found) > 1}


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, str]]) -> Iterator[Requirement]:
    """What a package needs, and what that needs, as the installed ones say."""
    for extra in extras or {""}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement
                yield from needed(requirement.name, frozenset(requirement.extras), seen)


@pytest.mark.parametrize("extra", EXTRAS)
def test_all_that_is_installed_is_pinned_and_fits_together(extra: str) -> None:
    """Also what nobody here has named: a package that another one brings."""
    try:
        found = list(needed("snapensemble", frozenset({extra}) - {""}, set()))
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"the extra {extra} is not installed here: {error.name}")
    assert found
    for requirement in found:
        name = canonicalize_name(requirement.name)
        if name == "snapensemble" or name in ("setuptools", "pip"):  # of the environment itself
            continue
        assert name in PINS, name
        # Pins may be versions before a release, such as 0.66b2.
        assert requirement.specifier.contains(PINS[name], prereleases=True), requirement
