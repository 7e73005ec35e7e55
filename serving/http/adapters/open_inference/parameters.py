"""The parameters of a request -> the options of the prediction. Pure."""

from collections.abc import Mapping
from typing import Any

from snapensemble.serving.errors import InvalidParameter
from snapensemble.serving.http.schemas import PredictOptions, checked_options

OPTIONS = ("mode", "coverage", "abstain", "novelty", "deadline_ms")
TIMEOUT = "timeout"  # Triton's, in microseconds
BINARY = "binary_data_output"
KNOWN = (*OPTIONS, TIMEOUT, BINARY)


def options_with(given: PredictOptions, parameters: Mapping[str, Any]) -> PredictOptions:
    """The options of a request: those of its parameters, then those of its query.

    Raises:
        InvalidParameter: one is unknown, out of bounds or means nothing in this contract.
    """
    for name in (*given.model_fields_set, *parameters):
        if name not in KNOWN:
            raise InvalidParameter(f"found {name[:80]!r}, expected {', '.join(KNOWN)}")
    asked = {name: value for name, value in parameters.items() if name in OPTIONS}
    if TIMEOUT in parameters and "deadline_ms" not in {*asked, *given.model_fields_set}:
        asked["deadline_ms"] = _milliseconds(parameters[TIMEOUT])
    if not asked:
        return given
    for name, value in asked.items():
        if isinstance(value, bool):
            raise InvalidParameter(f"{name}: found true or false, expected another value")
    return checked_options({**given.model_dump(include=given.model_fields_set), **asked})


def _milliseconds(timeout: Any) -> int:
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 1:
        raise InvalidParameter(f"{TIMEOUT}: expected microseconds, an integer of at least 1")
    return -(-timeout // 1000)  # rounded up
