from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import SecretStr

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.predict import predict_with_url
from snapensemble.server_process import server_process
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.exchange import DEFAULTS
from snapensemble.serving.http.pages import PAGE
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings
from tests.factories import encoded, make_bundle, picture
from tests.fakes import client
from tests.forks import run
from tests.serving.http.test_http import is_problem
from tests.serving.port import open_port
from tests.serving.process.test_server import connect

TOKEN = "a-token-that-is-long-enough"
RIGHT = {"authorization": f"Bearer {TOKEN}"}
PNG = encoded(picture(1))


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return create_app(
        Settings(tokens=SecretStr(TOKEN), cors_origins="https://shop.example"), engine
    )


@pytest_asyncio.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client(app) as http:
        yield http


PATHS = [
    "/model",
    "/metrics",
    "/openapi.json",
    "/docs/assets/swagger-ui.css",
    "/nope",
    "/predict",
    "/health/live/../../model",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer not-the-right-token"}])
async def test_nothing_is_said_without_a_token(
    http: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    reply = await http.get(path, headers=headers)
    is_problem(reply, 401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in reply.text and "insects" not in reply.text


async def test_with_a_token_all_is_as_it_was(http: httpx.AsyncClient) -> None:
    assert (await http.post("/predict", content=PNG, headers=RIGHT)).status_code == 200
    assert (await http.get("/model", headers=RIGHT)).json()["name"] == "insects"
    is_problem(await http.get("/nope", headers=RIGHT), 404, "not_found")


async def test_probes_need_no_token(http: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/health/ready"):
        assert (await http.get(path)).status_code == 200
        assert (await http.head(path)).status_code == 200


async def test_the_page_needs_no_token_and_says_nothing_of_the_bundle(
    http: httpx.AsyncClient, app: FastAPI
) -> None:
    reply = await http.get("/")
    assert reply.status_code == 200 and reply.text == PAGE
    assert "insects" not in PAGE and "0badcafe" not in PAGE
    assert "security" not in app.state.document()["paths"]["/"]["get"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "rest",
    [
        b"HTTP/1.1\r\nHost: 10.0.0.7:8000\r\nUser-Agent: kube-probe/1.33\r\nConnection: close",
        b"HTTP/1.1\r\nHost: x\r\nUser-Agent: GoogleHC/1.0\r\nAccept: */*\r\nConnection: close",
        b"HTTP/1.0",  # as HAProxy asks
    ],
)
def test_a_plain_probe_is_answered_200_and_told_nothing(
    app: FastAPI, method: str, rest: bytes
) -> None:
    with open_port(app) as port:
        answer = port.exchange(method.encode() + b" / " + rest + b"\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == (PAGE.encode() if method == "GET" else b"")
    names = {line.partition(b":")[0].lower() for line in head.splitlines()[1:]}
    assert names <= {
        b"date", b"connection", b"content-length", b"content-type", b"vary", b"x-request-id",
        *DEFAULTS,
    }  # fmt: skip


async def test_a_body_without_a_token_is_not_read(app: FastAPI) -> None:
    said: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict",
        "query_string": b"", "headers": [(b"content-length", b"5")], "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    assert said[0]["status"] == 401


async def test_refusals_are_counted(http: httpx.AsyncClient) -> None:
    await http.post("/predict", content=PNG)
    lines = (await http.get("/metrics", headers=RIGHT)).text.splitlines()
    assert 'snapensemble_requests_total{code="401",route="/predict"} 1.0' in lines
    assert 'snapensemble_problems_total{code="unauthorized"} 1.0' in lines


async def test_the_model_does_not_show_the_tokens(http: httpx.AsyncClient) -> None:
    assert TOKEN not in (await http.get("/model", headers=RIGHT)).text
    assert TOKEN not in (await http.get("/openapi.json", headers=RIGHT)).text


def test_an_app_with_a_bad_token_is_not_made(engine: Engine) -> None:
    with pytest.raises(InvalidConfig, match="entry 1 is too short"):
        create_app(Settings(tokens=SecretStr("short")), engine)


PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def test_a_page_of_an_origin_that_is_named_may_ask(http: httpx.AsyncClient) -> None:
    origin = {"origin": "https://shop.example"}
    before = await http.options("/predict", headers={**PREFLIGHT, **origin})
    assert before.status_code == 204
    assert before.headers["access-control-allow-origin"] == "https://shop.example"
    for name in ("Authorization", "Content-Encoding"):
        assert name in before.headers["access-control-allow-headers"]
    reply = await http.post("/predict", content=PNG, headers={**RIGHT, **origin})
    assert reply.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in reply.headers
    refused = await http.post("/predict", content=PNG, headers=origin)
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


async def test_a_page_of_another_origin_learns_nothing(http: httpx.AsyncClient) -> None:
    origin = {"origin": "https://shop.example.evil.example"}
    before = await http.options("/predict", headers={**PREFLIGHT, **origin})
    assert before.status_code == 403 and "access-control-allow-origin" not in before.headers
    reply = await http.post("/predict", content=PNG, headers={**RIGHT, **origin})
    assert "access-control-allow-origin" not in reply.headers


async def test_no_origin_may_ask_by_default(engine: Engine) -> None:
    async with client(create_app(Settings(), engine)) as http:
        origin = {"origin": "https://shop.example"}
        reply = await http.options("/predict", headers={**PREFLIGHT, **origin})
        is_problem(reply, 405, "method_not_allowed")
        reply = await http.get("/model", headers=origin)
        assert "access-control-allow-origin" not in reply.headers


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL and directory of a real server that wants a token."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "tokens").write_text(f"# of the tests\n{TOKEN}\n")
    bundle_dir = make_bundle(directory / "bundle")
    flags = ("--port", "0", "--tokens-file", str(directory / "tokens"))
    with server_process(bundle_dir, *flags) as (_, url):
        yield url, directory


def test_a_large_body_without_a_token_is_refused_before_it_is_sent(
    guarded: tuple[str, Path],
) -> None:
    with closing(connect(guarded[0])) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(2**30))
        connection.endheaders()
        assert connection.getresponse().status == 401


def test_predict_shows_the_token_of_its_environment(
    guarded: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    monkeypatch.delenv("SNAPENSEMBLE_TOKEN", raising=False)
    found = run("predict", tmp_path / "a.png", "--url", guarded[0])
    assert found.returncode == 2 and "wants a token: set SNAPENSEMBLE_TOKEN" in found.stderr
    answer = predict_with_url(guarded[0], [tmp_path / "a.png"], [PNG], token=TOKEN)
    assert answer["model"]["name"] == "insects"


def test_a_server_without_a_readable_token_does_not_start(bundle_dir: Path) -> None:
    found = run("serve", bundle_dir, "--port", "0", "--tokens-file", "/no/tokens")
    assert found.returncode == 2 and "--tokens-file /no/tokens: No such file" in found.stderr
    assert found.stdout == ""
