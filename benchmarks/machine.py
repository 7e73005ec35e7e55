"""Where figures were measured, and how they are kept."""

import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.cpu import cpu_budget, processor

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "snapensemble", "torch", "onnxruntime", "numpy", "fastapi", "uvicorn", "torchensemble",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and versions."""
    return {
        "processor": processor(),
        "cores": cpu_budget(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
        "date": time.strftime("%Y-%m-%d"),
    }


def save(name: str, figures: dict[str, Any], rows: list[tuple[str, ...]]) -> None:
    """Write `results/NAME.json` and `results/NAME.md`, and print the table."""
    RESULTS.mkdir(exist_ok=True)
    text = markdown(rows)
    content = json.dumps({"machine": machine(), **figures}, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(content)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def markdown(rows: list[tuple[str, ...]]) -> str:
    """Rows as a table; the first one is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float] | NDArray[np.float64], form: str) -> str:
    """The values as text: the median, and in brackets the least and the most."""
    return f"{np.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
