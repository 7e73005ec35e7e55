"""What can come back from a server instead of an answer."""

from dataclasses import dataclass

from snapensemble.contracts.errors import InvalidConfig, SnapensembleError
from snapensemble.pictures import BadPicture


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document (RFC 9457), or what is known of an answer that has none.

    Attributes:
        status: of HTTP.
        code: does not change between versions; None where it was not this product that answered.
        title: the kind of problem.
        detail: what was wrong this time.
        request_id: the server's log lines about the request have it.
    """

    status: int
    code: str | None
    title: str
    detail: str
    request_id: str | None


class ClientError(SnapensembleError):
    """A server gave no answer."""


class Unreachable(ClientError, InvalidConfig):
    """Nobody answers at the URL, or the connection broke each time."""


class UnexpectedAnswer(ClientError, InvalidConfig):
    """What answers at the URL is no server of this product."""


class ServerProblem(ClientError):
    """The server answered that it cannot or will not.

    Attributes:
        problem: its problem document.
    """

    def __init__(self, url: str, problem: Problem) -> None:
        super().__init__(f"{url} answered {problem.status}: {problem.detail}")
        self.problem = problem


class Unauthorized(ServerProblem):
    """The server wants a token, or another one."""


class Unavailable(ServerProblem):
    """The server has too much to do, or is ending (503), also after all repeats."""


class RefusedPicture(BadPicture, ServerProblem):
    """The server cannot read one of the pictures, or it is too large: which one, and why."""

    def __init__(self, index: int, name: str, refused: ServerProblem) -> None:
        BadPicture.__init__(self, index, name, refused)
        self.problem = refused.problem


def server_problem(url: str, problem: Problem) -> ServerProblem:
    """The error of an answer that is none."""
    kinds: dict[int, type[ServerProblem]] = {401: Unauthorized, 403: Unauthorized, 503: Unavailable}
    return kinds.get(problem.status, ServerProblem)(url, problem)
