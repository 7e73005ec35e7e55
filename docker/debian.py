"""Add what an image has from Debian, and its Python, to a CycloneDX list of Python packages.

    python debian.py sbom.cdx.json

Run inside the image; `make image` does. The packages are those that dpkg says are installed.
"""

import json
import platform
import sys
import urllib.parse
from pathlib import Path
from typing import Any

STATUS = Path("/var/lib/dpkg/status")
RELEASE = Path("/etc/os-release")


def main(file: Path) -> None:
    """Write the list anew, with the parts of the image behind Python's packages."""
    document = json.loads(file.read_text())
    found = components(STATUS.read_text(), RELEASE.read_text(), platform.python_version())
    document["components"] = [*document.get("components", []), *found]
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(f"{file}: {len(found)} parts of the image beside Python's packages")


def components(status: str, release: str, python: str) -> list[dict[str, Any]]:
    """The operating system, Python, and each Debian package, in the order of their names.

    Args:
        status: dpkg's file, paragraphs of `Field: value`.
        release: the operating system's file, lines of `NAME=value`.
        python: the version of Python.
    """
    system = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    system = {name: value.strip('"') for name, value in system.items()}
    name, version = system["ID"], system["VERSION_ID"]
    packages = filter(installed, map(fields, status.split("\n\n")))
    return [
        {
            "type": "operating-system",
            "bom-ref": f"{name}-{version}",
            "name": name,
            "version": version,
            "description": system["PRETTY_NAME"],
        },
        {
            "type": "application",
            "bom-ref": f"pkg:generic/python@{python}",
            "name": "python",
            "version": python,
            "purl": f"pkg:generic/python@{python}",
        },
        *(
            package(each, f"{name}-{version}")
            for each in sorted(packages, key=lambda each: (each["Package"], each["Architecture"]))
        ),
    ]


def fields(paragraph: str) -> dict[str, str]:
    """The fields of a paragraph; lines that go on with a space belong to long ones, left out."""
    lines = (line.partition(":") for line in paragraph.splitlines() if line[:1].strip())
    return {name: value.strip() for name, _, value in lines}


def installed(package: dict[str, str]) -> bool:
    """Whether a package's files are there, and not only its settings."""
    return package.get("Status", "").split(" ")[-1:] == ["installed"]


def package(found: dict[str, str], distribution: str) -> dict[str, Any]:
    """The component of a package; its source is the name that Debian's security notices use."""
    quoted = {key: urllib.parse.quote(value, safe="~") for key, value in found.items()}
    purl = (
        f"pkg:deb/debian/{quoted['Package']}@{quoted['Version']}"
        f"?arch={quoted['Architecture']}&distro={distribution}"
    )
    source = found.get("Source", found["Package"])
    return {
        "type": "library",
        "bom-ref": purl,
        "name": found["Package"],
        "version": found["Version"],
        "purl": purl,
        "properties": [{"name": "debian:source", "value": source}],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
