"""Between what a client says and httpx2: the same for the one that blocks and the other."""

import time
from collections.abc import Callable, Iterable, Sized
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import httpx2

from snapensemble.client.errors import UnexpectedAnswer
from snapensemble.client.talk import Answers, ClientOptions, Failure, Reply, Request, Talk
from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.options import build, in_python_words
from snapensemble.many.progress import Progress
from snapensemble.pictures import Picture
from snapensemble.predictions import Prediction

H = TypeVar("H", httpx2.Client, httpx2.AsyncClient)
TR = TypeVar("TR", httpx2.BaseTransport, httpx2.AsyncBaseTransport)
OCTETS = "application/octet-stream"
MOST_BYTES = 2**28  # of an answer: maps of many large pictures may be in it
# A proxy of the environment is for servers elsewhere.
NOT_BY_PROXY = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
# What sending raises; the last two are of hosts that have no name for the network.
NO_ANSWER = (httpx2.RequestError, httpx2.InvalidURL, UnicodeError)
# Nothing has been answered, and asking twice changes nothing.
BROKEN = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)


class OneServer(Generic[H, TR]):
    """What a client has, whether it blocks or not: settings, and connections to one server.

    Arguments and errors are those of `Client`.
    """

    _open: Callable[..., H]

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        bundle: str | None = None,
        within_s: float = 60.0,
        attempts: int = 6,
        images_per_request: int = 16,
        bytes_per_request: int = 15 * 2**20,
        concurrency: int = 4,
        transport: TR | None = None,
    ) -> None:
        values = {
            "token": token,
            "bundle": bundle,
            "within_s": within_s,
            "attempts": attempts,
            "images_per_request": images_per_request,
            "bytes_per_request": bytes_per_request,
            "concurrency": concurrency,
        }
        with in_python_words():
            self._talk = Talk(url, build(ClientOptions, values, word=str))
            self._http: H = self._open(
                base_url=base_url(self._talk.url),
                headers=self._talk.headers,
                transport=transport,
                mounts=NOT_BY_PROXY,
                timeout=None,  # httpx2 would give five seconds; whoever sends keeps `within_s`
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._talk.url}>"


def base_url(url: str) -> httpx2.URL:
    """The URL as httpx2 has it.

    Raises:
        InvalidConfig: it has a host or characters that no URL may have.
    """
    try:
        return httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise InvalidConfig(f"--url {url!r}: {error}") from error


def body_of(request: Request) -> dict[str, Any]:
    """The arguments of httpx2 for the body of a request; names of files stay here."""
    if not request.pictures:
        return {}
    if len(request.pictures) == 1:
        return {"content": request.pictures[0], "headers": {"content-type": OCTETS}}
    return {
        "files": [
            ("image", (str(number), data, OCTETS)) for number, data in enumerate(request.pictures)
        ]
    }


class Incoming:
    """The body of an answer while it arrives, within the time of its request and a size.

    Args:
        url: of the server, for messages.
        request: asks for it, now.
    """

    def __init__(self, url: str, request: Request) -> None:
        self._url = url
        self._end = time.monotonic() + request.timeout_s
        self._body = bytearray()

    def take(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            httpx2.ReadTimeout: the time is over, though each read of it may have been short.
            UnexpectedAnswer: they are more than any answer has.
        """
        if time.monotonic() > self._end:
            raise httpx2.ReadTimeout("the answer did not end in time")
        self._body += chunk
        if len(self._body) > MOST_BYTES:
            raise UnexpectedAnswer(f"{self._url} answers with more than {MOST_BYTES:,} bytes")

    def reply(self, response: httpx2.Response) -> Reply:
        """What has come back, when all of it has."""
        return Reply(response.status_code, response.headers, bytes(self._body))


def as_failure(error: Exception) -> Failure:
    """Why nothing has come back, and whether to ask again."""
    refused_certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
    text = str(error) or type(error).__name__
    return Failure(text, isinstance(error, BROKEN) and not refused_certificate)


def as_late(request: Request) -> Failure:
    """Why it was given up: the answer has not come whole, and the server may be at work on it."""
    return Failure(f"nothing came within {request.timeout_s:.0f} s", may_be_repeated=False)


def read_predictions(answers: Answers, url: str) -> list[Prediction]:
    """The predictions of an answer.

    Raises:
        UnexpectedAnswer: one is none.
    """
    try:
        return list(map(Prediction.of, answers.predictions))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(
            f"{url} does not answer as a snapensemble server does: {error!r}"
        ) from error


def shown(
    pictures: Iterable[Picture], progress: bool | Callable[[int, int], None], stack: ExitStack
) -> tuple[Iterable[Picture], Callable[[int], None]]:
    """The pictures, and what to call with how many are done.

    Args:
        pictures: are put into a list if they are to be counted.
        progress: whether to show a bar, or what else to tell.
        stack: ends the bar.
    """
    if progress is False:
        return pictures, lambda _: None
    counted = pictures if isinstance(pictures, Sized) else list(pictures)
    total = len(counted)
    if callable(progress):
        told = progress
        return counted, lambda done: told(done, total)
    bar = stack.enter_context(Progress(range(total)))
    return counted, lambda done: bar.show(done, 0, 0)
