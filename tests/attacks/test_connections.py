"""Raw bytes over connections, in any pieces, with clients that leave at any point.

Whatever they did: afterwards the server's counters are at zero and a good request is answered.
"""

import asyncio
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import Engine, load_engine
from tests.factories import encoded, picture
from tests.serving.conftest import LIMITS
from tests.serving.http.wire import End, Wire

PNG = encoded(picture(1))
BODIES = [PNG, b"", b"no picture", PNG * 30, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\n" * 9]
METHODS = [b"POST", b"GET", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"BREW"]
PATHS = [
    b"/predict", b"/predict?top=1", b"/predict?deadline_ms=1", b"/predict?x", b"/health/live",
    b"/docs", b"/metrics", b"/nope", b"*", b"/predict#?top=1", b"http://x/predict",
    b"http://x:y/predict",
]  # fmt: skip
HEADERS = [
    b"Upgrade: h2c", b"upgrade: websocket", b"Connection: Upgrade", b"Connection: close",
    b"Connection: keep-alive, upgrade", b"Expect: 100-continue", b"Host: again", b"Bad Header: x",
    b"Content-Type: application/json", b"Content-Type: multipart/form-data; boundary=x",
    b"Content-Type: image/png", b"Content-Encoding: gzip", b"Transfer-Encoding: chunked",
    b"Content-Length: 3", b"X-Request-ID: mine", b"a: \x01", b"b: much", b"d: e\r\n f",
]  # fmt: skip
GARBAGE = [
    b"\0", b"\r\n", b"\r\n\r\n", b"\xff" * 50, b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"much",
]  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, sound or not, with its body in one length or in chunks."""
    body = draw(st.sampled_from(BODIES))
    if draw(st.booleans()):
        length, body = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        length = b"Content-Length: %d" % len(body)
    method = draw(st.sampled_from(METHODS[:1] * 9 + METHODS))
    path = draw(st.sampled_from(PATHS[:2] * 6 + PATHS))
    extra = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: x", length, *extra, b"", body]
    return b"\r\n".join(lines)


streams = st.lists(
    st.one_of(requests(), requests(), st.sampled_from(GARBAGE)), min_size=1, max_size=4
).map(lambda pieces: b"".join(pieces).replace(b"much", b"x" * 40_000))


class Server(RuleBasedStateMachine):
    """Clients of one server, none of them decent."""

    ends = Bundle("ends")

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._wire = Wire(create_app(LIMITS, engine), max_connections=4)

    def _run(self, act: object, *arguments: object) -> object:
        async def acting() -> object:
            assert callable(act)
            return act(*arguments)

        return self._runner.run(acting())

    @rule(target=ends)
    def connect(self) -> End:
        end = self._run(self._wire.connect)
        assert isinstance(end, End)
        return end

    @rule(end=ends, stream=streams, cuts=st.lists(st.integers(0, 100_000), max_size=4))
    def send(self, end: End, stream: bytes, cuts: list[int]) -> None:
        places = sorted({cut % len(stream) for cut in cuts} - {0})
        pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
        self._run(end.send, *pieces)

    @rule(end=ends, stream=streams, upto=st.floats(0, 1))
    def send_a_part(self, end: End, stream: bytes, upto: float) -> None:
        self._run(end.send, stream[: int(upto * len(stream))])

    @rule(end=consumes(ends))
    def leave(self, end: End) -> None:
        self._run(end.leave)

    @rule(end=ends, takes=st.booleans())
    def read_or_not(self, end: End, takes: bool) -> None:
        end.transport.takes_no_more = not takes
        if not end.transport.is_closing():
            self._run(end.protocol.resume_writing if takes else end.protocol.pause_writing)

    @rule(end=ends, seconds=st.sampled_from([1, 11, 31, 76]))
    def pass_time(self, end: End, seconds: int) -> None:
        def look() -> None:
            if end.protocol in self._wire.state.connections:
                now = asyncio.get_running_loop().time()
                end.protocol.look_at_the_clock(now + seconds)

        self._run(look)

    @rule()
    def let_the_server_work(self) -> None:
        self._runner.run(asyncio.sleep(0.001))

    @rule(end=ends)
    def stop(self, end: End) -> None:
        self._run(end.protocol.shutdown)

    @invariant()
    def nothing_is_below_zero_and_limits_hold(self) -> None:
        held, images, requests_ = self._wire.holds
        assert 0 <= held <= LIMITS.max_bytes_in_flight
        assert 0 <= images <= LIMITS.max_queue and requests_ >= 0

    def teardown(self) -> None:
        with self._runner:
            self._end()

    def _end(self) -> None:
        self._run(self._wire.lose_all)
        self._runner.run(self._wire.give_back())
        assert not self._wire.state.connections
        good = self._run(self._wire.connect)
        assert isinstance(good, End)
        line = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(PNG)
        self._run(good.send, line + PNG)
        self._runner.run(self._wire.settle())
        assert good.statuses == [200]
        self._run(good.leave)
        self._runner.run(self._wire.give_back())


def test_nothing_that_clients_do_is_left_behind(bundle_dir: Path) -> None:
    with load_engine(bundle_dir, LIMITS.limits()) as engine:

        class Served(Server):
            def __init__(self) -> None:
                super().__init__(engine)

        run_state_machine_as_test(
            Served, settings=settings(max_examples=40, stateful_step_count=30)
        )
