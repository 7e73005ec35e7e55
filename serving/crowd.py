"""Connections beyond the limit: their predictions are refused, and they are closed.

Probes and metrics are answered, so that whoever watches the server can see why.
"""

from starlette.types import Scope

from serving.errors import Overloaded

CROWDED = "snapensemble.crowded"  # an ASGI extension that serving.protocol sets


def is_crowded(scope: Scope) -> bool:
    """Whether a request came over a connection beyond the limit."""
    return CROWDED in scope.get("extensions", ())


def refuse_crowd(scope: Scope) -> None:
    """Raise Overloaded if so."""
    if is_crowded(scope):
        raise Overloaded("too many connections are open; use fewer, or try again later", 1.0)
