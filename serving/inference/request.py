"""One image on its way through the ensemble: its bytes, its times, and the future of its answer.

Shapes: d members asked, C channels, H height, W width, K classes.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from snapensemble.contracts.errors import TakesTime
from snapensemble.contracts.metrics import Floats
from snapensemble.serving.errors import DeadlineExceeded, InferenceFailed
from snapensemble.serving.inference.aggregate import Summary
from snapensemble.serving.inference.explain import Asked, Explanation, GivesMaps, Maps

K = TypeVar("K")
A = TypeVar("A", "Answer", "Answer | Exception")
Image = NDArray[np.uint8]  # image_CHW
Features = NDArray[np.float32]  # what the trunk gives for an image
NO_PIXELS: Image = np.empty((0, 0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class MemberOutputs:
    """The distributions that members have given for an image."""

    probs_dK: Floats
    partial_of: tuple[int, ...] | None = None  # places of the members, where not all answered
    summary: Summary | None = None
    explanation: tuple[Explanation, ...] = ()
    distance: float | None = None  # from what taught, where it was asked for


def nothing_yet() -> MemberOutputs | None:
    """Return None: no member has answered yet."""
    return None


@dataclass(slots=True)
class Times:
    """The moments of a picture's way through the server, by `time.monotonic`."""

    accepted: float = field(default_factory=time.monotonic)
    predicted_s: float = 0.0  # the wait that was predicted when it was accepted
    decoding: float | None = None
    decoded: float | None = None
    begun: float | None = None  # when its first member was asked
    ended: float | None = None

    @property
    def decode_s(self) -> float:
        """Seconds that decoding took; 0 if it has not been decoded."""
        if self.decoding is None or self.decoded is None:
            return 0.0
        return self.decoded - self.decoding


class Answer(Future[Floats]):
    """The future of an image's probs_dK, of which a part can be had before all have answered."""

    def __init__(self) -> None:
        super().__init__()
        self.so_far: Callable[[], MemberOutputs | None] = nothing_yet  # set by the micro-batch
        self.summary: Summary | None = None  # set before the result
        self.explanation: tuple[Explanation, ...] = ()  # set before the result
        self.distance: float | None = None  # set before the result
        self.times = Times()

    def whole(self) -> MemberOutputs:
        """Wait for the whole answer; raises what the future raises."""
        probs_dK = self.result()
        return MemberOutputs(
            probs_dK,
            summary=self.summary,
            explanation=self.explanation,
            distance=self.distance,
        )

    def cut_short(self) -> MemberOutputs:
        """Give the whole answer if it is there, else the outputs so far, and cancel the rest.

        Raises:
            DeadlineExceeded: no member has answered.
        """
        outputs = self.so_far()  # before the rest is cancelled: afterwards it may be forgotten
        if not self.cancel():
            return self.whole()
        if outputs is None:
            raise DeadlineExceeded("no member had answered when the deadline passed")
        return replace(outputs, distance=self.distance)  # which the first member gives alone


class Encoded:
    """The bytes of a picture, which count as held until whoever has them last is done.

    Either a lane takes them or the request that brought them drops them, never both.
    """

    __slots__ = ("_box", "_is_wanted", "_let_go", "size")

    def __init__(self, data: bytes, let_go: Callable[[int], None] = lambda _: None) -> None:
        """Take over bytes that are counted; `let_go` gets their number when they are free."""
        self.size = len(data)
        self._box = [data]
        self._is_wanted = True
        self._let_go = let_go

    def take(self) -> bytes | None:
        """Take the bytes out, and call `done` or `put_back` then; None if they were dropped."""
        try:
            return self._box.pop()  # atomic, so only one thread gets them
        except IndexError:
            return None

    def done(self) -> None:
        """Free the bytes: whoever has taken them needs them no more."""
        self._let_go(self.size)

    def put_back(self, data: bytes) -> None:
        """Leave the bytes, which were taken, to the next who takes them."""
        self._box.append(data)
        if not self._is_wanted:  # they were dropped meanwhile, while they were taken
            self.drop()

    def drop(self) -> None:
        """Free the bytes, which nobody wants any more; if they are taken, when that is over."""
        self._is_wanted = False  # set before `take`, since `put_back` may run meanwhile
        if self.take() is not None:
            self.done()


Picture = Image | Encoded | bytes  # plain bytes are encoded, and nobody counts them


@dataclass(slots=True, eq=False)
class PendingImage:
    """An accepted picture, the future that its caller holds, and the members' outputs so far.

    Args:
        picture: encoded, or an array of the shape that the members take.
        answer: the future that its caller holds.
        asked: the classes to explain, of a bundle whose answers can be.
    """

    picture: Picture
    answer: Answer = field(default_factory=Answer)
    asked: Asked | None = None  # which classes to explain
    features: Features | None = None
    maps: Maps | None = None  # the trunk's, for those who ask
    probs_dK: Floats | None = None
    evidence: dict[int, Maps] = field(default_factory=dict)  # by member, for those who ask
    is_queued: bool = False  # the scheduler has it and owes it an answer
    is_claimed: bool = False  # a request counts it, and the scheduler learns when it stops

    def __post_init__(self) -> None:
        if isinstance(self.picture, bytes):
            self.picture = Encoded(self.picture)

    @property
    def is_decoded(self) -> bool:
        """Whether the picture is decoded, so that members can be asked about it."""
        return not isinstance(self.picture, Encoded)

    @property
    def inputs(self) -> Image | Features:
        """What is asked about the picture next takes: its features if it has any, or its pixels."""
        if self.features is not None:
            return self.features
        assert isinstance(self.picture, np.ndarray)
        return self.picture

    def give_features(self, features: Features) -> None:
        """Have the trunk's features in place of the pixels, which are not needed any more."""
        self.features, self.picture = features, NO_PIXELS

    def keep_maps(self, place: int, part: GivesMaps, maps_Chw: Maps | None) -> None:
        """Keep what an explanation needs of a part's feature maps; nothing if there will be none.

        Args:
            place: of the member, or `TRUNK`.
            part: the member or the trunk.
            maps_Chw: its own for this image, if it has any.
        """
        asked = self.asked
        if asked is None or not asked.needs_maps_of(place):
            return
        if part.has_class_weights:
            maps_Chw = self.maps if maps_Chw is None else maps_Chw
            assert maps_Chw is not None
            if asked.explains:
                self.evidence[place] = part.evidence(maps_Chw, asked.rows)
            if asked.novelty is not None and place == 0:
                self.answer.distance = part.distance(maps_Chw)
        elif maps_Chw is not None:
            self.maps = maps_Chw.copy()

    def drop_features(self) -> int:
        """Free the features, which nobody will be asked about; returns how many bytes they had."""
        self.maps = None
        if self.features is None:
            return 0
        size, self.features = self.features.nbytes, None
        return size

    @property
    def times(self) -> Times:
        """The moments of the picture's way through the server."""
        return self.answer.times

    def attempt(self, decode: Callable[[bytes], Image]) -> Exception | None:
        """Decode the picture, unless its client has left, and return the error if that fails.

        Defects are returned, too, since the client must be answered. A picture that takes more
        time than `decode` gives it stays encoded.
        """
        encoded, times = self.picture, self.times
        assert isinstance(encoded, Encoded)
        data = encoded.take()
        if data is None:
            return None
        if self.answer.cancelled():
            encoded.done()
            return None
        times.decoding = time.monotonic()
        try:
            self.picture = decode(data)
        except TakesTime as error:
            encoded.put_back(data)
            return error
        except Exception as error:
            encoded.done()
            return error
        finally:
            times.decoded = time.monotonic()
        encoded.done()
        return None

    def drop(self) -> None:
        """Free the encoded bytes, if there are any: nobody will decode them."""
        if isinstance(self.picture, Encoded):
            self.picture.drop()

    def has_left(self) -> bool:
        """Whether the caller has cancelled; if so, those who wait for the future are notified."""
        if not self.answer.cancelled():
            return False
        self.answer.set_running_or_notify_cancel()
        self.answer.so_far = nothing_yet
        return True

    def resolve(self, outcome: Floats | Exception) -> None:
        """Give the future its result or its error, unless the caller has left."""
        self.drop()  # a picture that is not decoded yet will not be
        if self.asked is not None and not isinstance(outcome, Exception):
            outcome = self._explained(outcome, self.asked)
        self.times.ended = time.monotonic()
        if self.answer.set_running_or_notify_cancel():
            if isinstance(outcome, Exception):
                self.answer.set_exception(outcome)
            else:
                self.answer.set_result(outcome)
        self.answer.so_far = nothing_yet  # the former one holds the whole micro-batch

    def _explained(self, outcome: Floats, asked: Asked) -> Floats | InferenceFailed:
        """Set the explanation of the answer, and return the answer; or why there is none."""
        answer, evidence = self.answer, self.evidence
        self.evidence = {}
        if answer.cancelled() or answer.summary is None or not asked.explains:
            return outcome
        try:
            evidence_d = [evidence[place] for place in sorted(evidence)]
            answer.explanation = asked.explanations(evidence_d, answer.summary)
        except Exception as error:  # there is no memory, or evidence is no number
            return InferenceFailed.caused_by(error, "the answer could not be explained")
        return outcome


def in_order(handed_over: Iterable[tuple[K, A]], most: int) -> Iterator[tuple[K, A]]:
    """Yield answers in their order while later ones are on the lanes; those left are cancelled.

    Args:
        handed_over: what is asked about, with its answer; taken as far as it may be under way.
        most: how many are under way at most.
    """
    under_way: deque[tuple[K, A]] = deque()
    try:
        for pair in handed_over:
            under_way.append(pair)
            if len(under_way) >= most:
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()
    finally:
        for _, answer in under_way:
            if not isinstance(answer, Exception):
                answer.cancel()
