"""Bytes that are hardly HTTP, to a real port: an answer or a hang-up, and nothing stays behind."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapensemble.serving.http.app import create_app
from snapensemble.serving.inference.engine import load_engine
from tests.factories import make_bundle
from tests.openapi import check_answer, document_of_app
from tests.serving import strange
from tests.serving.conftest import LIMITS
from tests.serving.port import GO_ON, Port, first_answer, open_port

LAST = b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

first_lines = st.sampled_from(
    [
        b"GET /predict HTTP/1.1", b"HEAD /model HTTP/1.1", b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0",
        b"CONNECT x:1 HTTP/1.1", b"post /predict HTTP/1.1", b"\0", b"", b"POST /predict",
        b"POST /predict HTTP/9", b"POST  HTTP/1.1", b"POST // HTTP/1.1", b"POST /%00 HTTP/1.1",
        b"POST /\xff HTTP/1.1", b"POST http://x/predict HTTP/1.1", b"POST http://[x HTTP/1.1",
        b"POST /predict HTTP/1.0",
        b"POST /" + b"a" * 9000 + b" HTTP/1.1",
    ]
)  # fmt: skip
lengths = st.sampled_from(
    [b"0", b"5", b"-1", b"+5", b"05", b"5, 5", b"5 5", b"0x5", b"5\0", b"", b"1" * 40, b"99999999"]
)
encodings = st.sampled_from([b"Chunked", b"gzip, chunked", b"chunked, identity", b"x", b""])
odd_headers = st.one_of(
    st.tuples(st.just(b"Content-Length"), lengths),
    st.tuples(st.just(b"Transfer-Encoding"), encodings),
    st.tuples(st.just(b"Expect"), st.sampled_from([b"100-continue", b"200-ok", b""])),
    st.tuples(st.just(b"Upgrade"), st.sampled_from([b"h2c", b"websocket", b"TLS/1.0", b""])),
    st.tuples(st.just(b"Connection"), st.sampled_from([b"close", b"upgrade", b"keep-alive", b","])),
    st.tuples(st.just(b"Content-Type"), strange.media_types),
    st.tuples(st.sampled_from([b"", b" x", b"x ", b"x\0", b"\xff", b"x:y"]), st.just(b"z")),
    st.tuples(strange.header_names, strange.header_values),
)
odd_bodies = st.sampled_from(
    [
        b"", b"hello", b"\r\n" * 9, b"5\r\nhell", b"zz\r\n", b"-1\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n", b"0\r\n" + b"x: y\r\n" * 9 + b"\r\n",
    ]
) | st.binary(max_size=60)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A sound request, of which one thing or another has been changed."""
    odd = draw(st.sets(st.sampled_from(["line", "headers", "body", "end", "cut"]), max_size=2))
    body = draw(strange.bodies)
    length, whole = (b"Content-Length", b"%d" % len(body)), body
    if draw(st.booleans()):
        length, whole = (b"Transfer-Encoding", b"chunked"), chunked(body)
    pairs = [(b"Host", b"x"), length]
    line = b"POST /predict HTTP/1.1"
    if "line" in odd:
        line = draw(first_lines)
    if "headers" in odd:
        pairs += draw(st.lists(odd_headers, min_size=1, max_size=3))
    if "body" in odd:
        whole = draw(odd_bodies)
    end = draw(st.sampled_from([b"\n", b"\r"])) if "end" in odd else b"\r\n"
    data = end.join([line, *map(b": ".join, pairs), b"", b""]) + whole
    return data[: draw(st.integers(0, len(data)))] if "cut" in odd else data


def chunked(data: bytes) -> bytes:
    pieces = [data[i : i + 40] for i in range(0, len(data), 40)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    bundle_dir = make_bundle(tmp_path_factory.mktemp("connections") / "bundle")
    with (
        load_engine(bundle_dir, LIMITS.limits()) as engine,
        open_port(create_app(LIMITS, engine)) as port,
    ):
        yield port


def first_line(data: bytes) -> tuple[str, str]:
    """Method and path of the first request; of what is none, something that has no operation."""
    words = data.lstrip(b"\r\n").split(None, 2)
    path = words[1].removeprefix(b"http://x").partition(b"?")[0]
    return words[0].decode("latin-1"), path.decode("latin-1")


@settings(max_examples=250)
@given(requests())
def test_strange_bytes_are_answered_or_hung_up_on(port: Port, data: bytes) -> None:
    document = document_of_app(port.app)
    said = port.exchange(data + LAST).removeprefix(GO_ON)
    port.wait_until_nothing_is_left()
    if said:
        method, path = first_line(data + LAST)
        answer = first_answer(said, method)
        assert answer.status_code < 500
        check_answer(document, method, path, answer)
    assert b" 200 OK" in port.exchange(LAST)


LARGE = bytes(8 * 2**20)


@pytest.mark.parametrize(
    ("status", "lines", "body"),
    [
        (422, [b"POST /predict?top=x HTTP/1.1"], LARGE),
        (404, [b"POST /predict/nobody HTTP/1.0"], LARGE),
        (405, [b"POST /health/live HTTP/1.1"], LARGE),
        (413, [b"POST /predict HTTP/1.1", b"Content-Type: image/png"], LARGE),
        (415, [b"POST /predict HTTP/1.1", b"Content-Type: text/csv"], LARGE),
        (431, [b"GET / HTTP/1.1", b"a: " + b"b" * 10**6], b""),
        (400, [b"GET http://[ HTTP/1.1"], LARGE),
        (400, [b"no request " + LARGE], b""),
    ],
)
def test_who_listens_when_all_is_sent_sees_why_it_was_refused(
    port: Port, status: int, lines: list[bytes], body: bytes
) -> None:
    length = b"Content-Length: %d" % len(body)
    head = [*lines, b"Host: x", b"Connection: close", length, b"", b""]
    answer = port.exchange(b"\r\n".join(head) + body)
    assert int(answer.split()[1]) == status
    assert answer.count(b"HTTP/1.1 ") == 1
