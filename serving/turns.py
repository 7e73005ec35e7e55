"""Pictures that wait to be decoded: those of one request take turns with those of others."""

from collections import deque
from collections.abc import Iterable

from serving.stages import Stage
from serving.waiting import Waiting


class Turns:
    """A queue in which a request with many large pictures keeps nobody waiting for all of them."""

    def __init__(self) -> None:
        self._requests: deque[tuple[Stage, deque[Waiting]]] = deque()
        self._pictures = 0

    def __len__(self) -> int:
        """Pictures that wait."""
        return self._pictures

    def add(self, stage: Stage, pictures: Iterable[Waiting]) -> None:
        """Queue the pictures of one request.

        Args:
            stage: where they go when they are decoded.
            pictures: at least one.
        """
        request = deque(pictures)
        self._pictures += len(request)
        self._requests.append((stage, request))

    def take(self) -> tuple[Stage, Waiting]:
        """The next picture of the request whose turn it is; there must be one."""
        stage, request = self._requests.popleft()
        self._pictures -= 1
        picture = request.popleft()
        if request:
            self._requests.append((stage, request))
        return stage, picture
