"""What the protocol tells the application about a request, in the `state` of its scope."""

from starlette.types import Scope

from snapensemble.serving.errors import Overloaded

_CROWDED = "snapensemble.crowded"
_REFUSED = "snapensemble.refused"
_NOTED = "snapensemble.noted"
_WHOLE = "snapensemble.whole"


def mark_crowded(scope: Scope) -> None:
    """The request came over a connection beyond the limit.

    Its prediction is refused and the connection is closed. Probes and metrics are answered, so
    that whoever watches the server can see why.
    """
    scope["state"][_CROWDED] = True


def is_crowded(scope: Scope) -> bool:
    """Whether it did."""
    return _CROWDED in scope.get("state", ())


def refuse_crowd(scope: Scope) -> None:
    """Raise Overloaded if it did."""
    if is_crowded(scope):
        raise Overloaded("too many connections are open; use fewer, or try again later", 1.0)


def mark_whole(scope: Scope) -> None:
    """All of the body has come: nobody has to look at the clock while it is read."""
    scope["state"][_WHOLE] = True


def is_whole(scope: Scope) -> bool:
    """Whether it has."""
    return _WHOLE in scope.get("state", ())


def note(scope: Scope, **values: int) -> None:
    """Say something about the request, for the access log and the trace."""
    scope.setdefault("state", {}).setdefault(_NOTED, {}).update(values)


def noted(scope: Scope) -> dict[str, int]:
    """What was said."""
    found: dict[str, int] = scope.get("state", {}).get(_NOTED, {})
    return found


def mark_refused(scope: Scope, status: int) -> None:
    """The protocol has answered with this status itself: what came after the head was not HTTP."""
    scope["state"][_REFUSED] = status


def refused_status(scope: Scope) -> int:
    """That status; 0 if there is none."""
    return int(scope.get("state", {}).get(_REFUSED, 0))
