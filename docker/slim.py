"""Remove from an environment what a server never reads: tests, headers, tools that are not called.

    python docker/slim.py /venv

What stays runs as before. The reasons and sizes are in docs/decisions/0018-what-the-image-holds.md.
"""

import shutil
import sys
from pathlib import Path

UNUSED = (
    "onnxruntime/transformers",  # rewrites graphs, at export
    "onnxruntime/quantization",  # rewrites graphs in int8, at export
    "onnxruntime/tools",
    "onnxruntime/datasets",
    "onnxruntime/backend",  # runs ONNX's own test suite
    "numpy/f2py",  # compiles Fortran
    "numpy/distutils",  # builds what is compiled
    "fastapi_standalone_docs/static/redoc",  # /docs is Swagger UI
    "onnxruntime/capi/libonnxruntime.so.*",  # for programs in C; Python's module has all of it
    "**/tests",
    "**/*.pyi",  # types, headers and sources of what is compiled
    "**/*.pyx",
    "**/*.pxd",
    "**/*.h",
    "**/*.a",
)


def main(environment: Path) -> None:
    """Remove what `UNUSED` names, and print how much that was."""
    (packages,) = environment.glob("lib/python*/site-packages")
    before = after = size_of(packages)
    for pattern in UNUSED:
        found = sorted(packages.glob(pattern))
        if not found:  # a new version: look again what is needed
            sys.exit(f"{packages}/{pattern} is not there; mend UNUSED in {sys.argv[0]}")
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)  # gone with the directory that it was in
        left = size_of(packages)
        print(f"{(after - left) / 1e6:6.1f} MB {pattern}")
        after = left
    print(f"{packages}: {before / 1e6:.0f} MB, now {after / 1e6:.0f} MB")


def size_of(directory: Path) -> int:
    """The bytes of all files in a directory."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
