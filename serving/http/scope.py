"""What the layers know of one request: an object in the `state` of its ASGI scope."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from snapensemble.serving.inference.request import Times

STATE = "snapensemble"  # the key of the object


@dataclass(slots=True)
class RequestState:
    """What protocol and handlers write of one request, and the exchange around them reads."""

    # The request came over a connection beyond the limit. Its prediction is refused and the
    # connection closed. Probes and metrics are answered, so that whoever watches the server can
    # see why.
    is_crowded: bool = False
    # All of its body has come, so nobody has to look at the clock while it is read.
    is_whole: bool = False
    # The status with which the protocol has refused it, as what came after the head was not HTTP.
    refused_status: int = 0
    # Counts of images and members for the access log and the trace.
    notes: dict[str, int] = field(default_factory=dict)
    # For the trace: when the body began to come and had come, and the moments of the images.
    received: tuple[float, float] | None = None
    times: Sequence[Times] = ()
