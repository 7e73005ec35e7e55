import io

import pytest

from snapensemble.many.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_with_the_rate_and_the_time_left() -> None:
    screen, now = Terminal(), 0.0
    with Progress(range(40), screen, lambda: now) as progress:
        progress.thread.join()
        now = 2.0
        progress.show(done=10, before=10, bad=1)
        now = 2.1
        progress.show(done=11, before=10, bad=1)  # too soon
    bar = f"[{'#' * 15}{' ' * 15}] 20 of 40 pictures  5/s  1 cannot be read  0:00:04 left"
    assert screen.getvalue() == f"\r{bar}\r{' ' * len(bar)}\r"


def test_elsewhere_there_is_a_line_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with Progress(range(40), clock=lambda: now) as progress:
        for second in range(11):
            now = float(second)
            progress.show(done=second * 10, before=0, bad=0)
    assert capsys.readouterr().err == "50 pictures  10/s\n100 pictures  10/s\n"
    assert not progress.thread.is_alive() and progress.thread.ident is None  # nothing was counted


def test_a_terminal_that_has_gone_stops_nothing() -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError("gone")

    now = 0.0
    with Progress([], Gone(), lambda: now) as progress:
        progress.thread.join()
        now = 1.0
        progress.show(1, 0, 0)
