"""What the layers know of one request: an object in the `state` of its ASGI scope."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from snapensemble.serving.inference.request import Times

STATE = "snapensemble"  # its key


@dataclass(slots=True)
class RequestState:
    """The protocol and the handlers write it, the exchange around them reads it."""

    # It came over a connection beyond the limit. Its prediction is refused and the connection is
    # closed. Probes and metrics are answered, so that whoever watches the server can see why.
    is_crowded: bool = False
    # All of its body has come, so nobody has to look at the clock while it is read.
    is_whole: bool = False
    # With what the protocol has answered it itself: what came after the head was not HTTP.
    refused_status: int = 0
    # For the access log and the trace.
    notes: dict[str, int] = field(default_factory=dict)
    # For the trace: when its body began to come and had come, and what happened to its images.
    received: tuple[float, float] | None = None
    times: Sequence[Times] = ()
