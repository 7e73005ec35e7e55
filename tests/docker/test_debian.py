"""What the image has from Debian, as its list says."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docker" / "debian.py"))
STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib
Version: 1:1.2.13.dfsg-1+b1
Description: compression library
 Package: a line of the description
 .

Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl (3.0.17-1)
Version: 3.0.17-1~deb12u3

Package: old
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n\n'


def found() -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = SCRIPT["components"](STATUS, RELEASE, "3.11.9")
    return parts


def test_the_system_python_and_all_installed_packages_are_listed() -> None:
    assert [(part["name"], part["version"]) for part in found()] == [
        ("debian", "12"),
        ("python", "3.11.9"),
        ("libssl3", "3.0.17-1~deb12u3"),
        ("zlib1g", "1:1.2.13.dfsg-1+b1"),
    ]


def test_a_package_is_named_as_scanners_look_it_up() -> None:
    library = found()[3]
    assert library["purl"] == (
        "pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1%2Bb1?arch=amd64&distro=debian-12"
    )
    assert library["properties"] == [{"name": "debian:source", "value": "zlib"}]


def test_the_list_stays_one_that_the_schema_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "release").write_text(RELEASE)
    python = {"type": "library", "bom-ref": "numpy", "name": "numpy", "version": "2.4.6"}
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [python]}
    file = tmp_path / "sbom.cdx.json"
    file.write_text(json.dumps(document))
    main = SCRIPT["main"]
    monkeypatch.setitem(main.__globals__, "STATUS", tmp_path / "status")
    monkeypatch.setitem(main.__globals__, "RELEASE", tmp_path / "release")
    main(file)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    assert json.loads(file.read_text())["components"][0] == python
    assert len(json.loads(file.read_text())["components"]) == 5
