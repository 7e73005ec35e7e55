"""Client: asks a server, and blocks meanwhile."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, TypeVar, Unpack, overload

import httpx2

from snapensemble.client.talk import (
    Answers,
    Batch,
    Conversation,
    Failure,
    Reply,
    Request,
)
from snapensemble.client.wire import (
    NO_ANSWER,
    Incoming,
    OneServer,
    as_failure,
    as_late,
    body_of,
    read_predictions,
    shown,
)
from snapensemble.contracts.options import in_python_words
from snapensemble.pictures import BadPicture, Picture, as_several
from snapensemble.predictions import AskedOfServer, Prediction

T = TypeVar("T")


class Client(OneServer[httpx2.Client, httpx2.BaseTransport]):
    """Asks a server about pictures. It may be used from several threads; `with` or `close` ends it.

    Args:
        url: for example `http://127.0.0.1:8000`, perhaps with a path in front.
        token: a bearer token, if the server wants one.
        bundle: the name of one of several bundles that the server has.
        within_s: time for a request with all its repeats, seconds.
        attempts: how often a request is sent at most; 1 repeats nothing.
        images_per_request: pictures in one request; fewer where the server takes fewer.
        bytes_per_request: bytes of pictures in one request, unless it has one only.
        concurrency: requests at the same time.
        transport: how requests are sent, for example `httpx2.HTTPTransport(verify=context)`.

    Raises:
        InvalidConfig: an argument is out of bounds, or the URL is none.
    """

    _open = httpx2.Client

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def model(self) -> dict[str, Any]:
        """What is served and how good it is: `GET /model`.

        Raises:
            ServerProblem, Unreachable, UnexpectedAnswer: there is no answer.
        """
        return self._hold(self._talk.model(), Future())

    @overload
    def predict(  # type: ignore[overload-overlap] # a text is a sequence of texts, too
        self,
        pictures: Picture,
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        pictures: Iterable[Picture],
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> list[Prediction]: ...

    def predict(
        self,
        pictures: "Picture | Iterable[Picture]",
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> Prediction | list[Prediction]:
        """Ask about one picture, or about several, which are answered in their order.

        Many pictures are sent in several requests, some of them at the same time. What may be
        repeated is: where the connection is refused or breaks, and after 503, whose Retry-After
        is obeyed.

        Args:
            pictures: a path, the bytes of a file, a Pillow image, an array of uint8 (height x
                width, perhaps x 1, 3 or 4 channels), or any iterable of these.
            progress: show a bar on standard error, or call this with how many are done, of how
                many.
            asked: the parameters of `POST /predict`.

        Raises:
            BadPicture: a picture cannot be read, here or by the server; it says which one.
            ServerProblem: the server answers that it cannot (`Unavailable`) or will not.
            Unreachable, UnexpectedAnswer: it gives no answer.
        """
        several, is_one = as_several(pictures)
        with in_python_words():
            found = read_predictions(self.ask(several, progress=progress, **asked), self._talk.url)
        return found[0] if is_one else found

    def ask(
        self,
        pictures: Iterable[Picture],
        names: Sequence[str] | None = None,
        *,
        progress: bool | Callable[[int, int], None] = False,
        **asked: Unpack[AskedOfServer],
    ) -> Answers:
        """Ask about pictures; the predictions are as JSON has them. All else is as in `predict`.

        Args:
            pictures: any number.
            names: of the pictures, for messages; their own if not given.
            progress: as in `predict`.
            asked: the parameters of `POST /predict`.
        """
        predictions: list[dict[str, Any]] = []
        model: dict[str, Any] = {}
        with ExitStack() as stack:
            pictures, done = shown(pictures, progress, stack)
            for found in self._in_order(self._talk.batches(pictures, names), asked):
                predictions += found.predictions
                model = found.model
                done(len(predictions))
        return Answers(predictions, model)

    def _in_order(
        self, batches: Iterator[Batch | BadPicture], asked: AskedOfServer
    ) -> Iterator[Answers]:
        """Hold the conversations about batches, several at a time; yield their ends in order."""
        under_way: deque[Future[Answers]] = deque()
        most = self._talk.options.concurrency
        is_over: Future[None] = Future()  # done when nobody wants to know any more
        with ThreadPoolExecutor(most, thread_name_prefix="snapensemble-client") as pool:
            try:
                for batch in batches:
                    if isinstance(batch, BadPicture):
                        failed: Future[Answers] = Future()
                        failed.set_exception(batch)
                        under_way.append(failed)
                    else:
                        talk = self._talk.predictions(batch, asked)
                        under_way.append(pool.submit(self._hold, talk, is_over))
                    if len(under_way) >= most:
                        yield under_way.popleft().result()
                while under_way:
                    yield under_way.popleft().result()
            finally:
                is_over.set_result(None)
                for future in under_way:
                    future.cancel()

    def _hold(self, conversation: Conversation[T], is_over: Future[None]) -> T:
        """Hold a conversation to its end, or until nobody wants to know it any more."""
        outcome: Reply | Failure | None = None
        while True:
            try:
                said = conversation.send(outcome)
            except StopIteration as end:
                found: T = end.value
                return found
            outcome = None
            if isinstance(said, Request):
                outcome = self._send(said, is_over)
            elif wait([is_over], said).done:
                raise CancelledError

    def _send(self, request: Request, is_over: Future[None]) -> Reply | Failure:
        """Send a request, on a thread of its own, which is left alone when its time is over.

        httpx2 gives that time to each read anew, so a server may take it for each byte of a head.
        So is it when nobody wants to know its answer any more.
        """
        outcome: Future[Reply | Failure] = Future()

        def send() -> None:
            try:
                outcome.set_result(self._sent(request))
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=send, name="snapensemble-request", daemon=True).start()
        either: list[Future[Any]] = [outcome, is_over]
        done = wait(either, request.timeout_s, FIRST_COMPLETED).done
        if outcome in done:
            return outcome.result()
        if is_over in done:
            raise CancelledError
        return as_late(request)

    def _sent(self, request: Request) -> Reply | Failure:
        incoming = Incoming(self._talk.url, request)
        how = {"timeout": request.timeout_s, **body_of(request)}
        try:
            with self._http.stream(request.method, request.path, **how) as response:
                for chunk in response.iter_bytes():
                    incoming.take(chunk)
                return incoming.reply(response)
        except NO_ANSWER as error:
            return as_failure(error)
