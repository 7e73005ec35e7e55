"""How far it is: a bar on a terminal, else a line every few seconds; both on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from snapensemble.contracts.errors import SnapensembleError
from snapensemble.contracts.process import PATIENCE_S, say

BAR_S, BAR_WIDTH = 0.2, 30


class Progress:
    """Shows how many pictures are done. Use as a context manager.

    Args:
        counted: the pictures again, to find out how many there are; counted on a thread of its
            own, and only where there is a bar to draw.
        stream: where to.
        clock: in seconds.
    """

    def __init__(
        self,
        counted: Iterable[object],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began = self._shown = clock()
        self._is_bar = self._stream.isatty()
        self._total: int | None = None
        self._is_over = False
        self._width = 0
        self.thread = threading.Thread(target=self._count, args=(counted,), daemon=True)

    def __enter__(self) -> "Progress":
        if self._is_bar:
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        if self._is_bar:
            self._draw("")

    def show(self, done: int, before: int, bad: int) -> None:
        """Show it, unless it was shown just now.

        Args:
            done: pictures that have a row, of this start.
            before: those that had one before.
            bad: how many of the first could not be read.
        """
        now = self._clock()
        if now - self._shown < (BAR_S if self._is_bar else PATIENCE_S):
            return
        self._shown = now
        rate = done / (now - self._began)
        text = f"{before + done:,} pictures"
        if self._total is not None:
            text = f"{before + done:,} of {self._total:,} pictures"
        text += f"  {rate:,.0f}/s" + (f"  {bad:,} cannot be read" if bad else "")
        if not self._is_bar:
            say(text)
            return
        if self._total:
            left_s = round((self._total - before - done) / rate) if rate else 0
            text += f"  {left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d} left"
            filled = BAR_WIDTH * min(before + done, self._total) // self._total
            text = f"[{'#' * filled}{' ' * (BAR_WIDTH - filled)}] {text}"
        self._draw(text)

    def _draw(self, text: str) -> None:
        try:
            self._stream.write(f"\r{text:<{self._width}}" if text else f"\r{'':{self._width}}\r")
            self._stream.flush()
        except OSError:  # the terminal may have gone; the rows go on
            return
        self._width = len(text)

    def _count(self, counted: Iterable[object]) -> None:
        number = 0
        with contextlib.suppress(SnapensembleError):  # who classifies them will say it
            for _ in counted:
                if self._is_over:
                    return
                number += 1
            self._total = number
