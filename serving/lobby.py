"""Where accepted pictures wait, encoded or decoded, and who is not let in.

Nothing here locks: its owner does.
"""

import math
import time
from collections.abc import Mapping, Sequence

from snapensemble.serving.errors import Overloaded, Stopping
from snapensemble.serving.forecast import Forecast
from snapensemble.serving.inference.memory import Encoded
from snapensemble.serving.inference.request import Answer, Picture, Waiting
from snapensemble.serving.stages import Mode, Stage
from snapensemble.serving.turns import Turn, Turns


class Lobby:
    """Pictures that no member has been asked about.

    Args:
        entries: the stage in which the pictures of each mode wait for their first member.
        max_queue: pictures that wait at most.
        max_wait_s: predicted wait above which pictures are refused.
    """

    def __init__(self, entries: Mapping[Mode, Stage], *, max_queue: int, max_wait_s: float) -> None:
        self._entries = entries
        self._stages = list(entries.values())
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self.closed = False
        self.encoded = Turns()
        self.forecast = Forecast(max_wait_s)

    @property
    def decoded(self) -> int:
        """Images that wait for their first member."""
        return sum([len(stage.waiting) for stage in self._stages])

    @property
    def queued(self) -> int:
        """Those, and pictures that wait to be decoded."""
        return len(self.encoded) + self.decoded

    @property
    def predicted_wait_s(self) -> float:
        """Seconds until an image that comes now would be answered, from the measured rates."""
        return sum([stage.load.wait_s for stage in self._stages])

    def refuse_overload(self, count: int, within_s: float = math.inf) -> float:
        """Predict how long so many pictures would wait, seconds.

        Args:
            count: pictures.
            within_s: when their sender needs the answer, if that is sooner than what is accepted.

        Raises:
            Overloaded: there is no room, or no time, for them.
            Stopping: nobody is let in any more.
        """
        if self.closed:
            raise Stopping("the server is shutting down; send the request elsewhere")
        predicted_s = self.predicted_wait_s
        wait_s = self.forecast.corrected(predicted_s)
        most_s = min(self._max_wait_s, within_s)
        if self.queued + count > self._max_queue:
            raise Overloaded(f"{self.queued} images wait, at most {self._max_queue} may", wait_s)
        if wait_s > most_s:
            raise Overloaded(
                f"the wait would be {wait_s:.1f} s, at most {most_s:.1f} s is accepted",
                wait_s - most_s,
            )
        return predicted_s

    def accept(self, pictures: Sequence[Picture], mode: Mode) -> list[Answer]:
        """Let the pictures of one request in, or raise what `refuse_overload` raises."""
        predicted_s = self.refuse_overload(len(pictures))
        entry = self._entries[mode]
        accepted = [
            Waiting(Encoded(picture) if isinstance(picture, bytes) else picture, Answer())
            for picture in pictures
        ]
        encoded = [waiting for waiting in accepted if isinstance(waiting.picture, Encoded)]
        if encoded:
            self.encoded.add(Turn(entry, encoded))
        if len(encoded) < len(accepted):
            entry.waiting.extend(w for w in accepted if not isinstance(w.picture, Encoded))
        entry.load.unanswered += len(accepted)
        for first in accepted[:1]:  # the others wait for it, too
            first.times.predicted_s = predicted_s
        return [waiting.answer for waiting in accepted]

    def answered(self, stage: Stage, answered: Sequence[Waiting]) -> None:
        """Images of one micro-batch have got their answers."""
        stage.load.unanswered -= len(answered)
        if answered:
            times = answered[0].times  # one says it for all
            self.forecast.came_out(times.predicted_s, time.monotonic() - times.accepted)
