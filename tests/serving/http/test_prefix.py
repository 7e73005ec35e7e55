"""Requests through a proxy that shows the server under a path of its own."""

import re
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.pages import PAGE
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.settings import Settings, is_prefix
from tests.factories import encoded, picture
from tests.fakes import client
from tests.serving.http.test_auth_and_cors import RIGHT, TOKEN

PREFIX = "/apps/photos"
PNG = encoded(picture(1))


def proxied(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """A client of the app; its paths are those of a proxy, which no document declares."""
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@pytest.mark.parametrize("kept", ["", PREFIX])
async def test_every_route_is_under_the_prefix_and_without_it(engine: Engine, kept: str) -> None:
    app = create_app(Settings(root_path=PREFIX), engine)
    async with proxied(app) as http:
        model = app.state.service.model()
        names = {"model": model.name, "version": model.version, "label": "stable"}
        for template, item in app.state.document()["paths"].items():
            path = template.format(**names)
            for method in item:
                reply = await http.request(method, kept + path)
                assert reply.status_code not in (404, 405), f"{method} {kept}{path}"
        reply = await http.post(f"{kept}/predict?top=1", content=PNG)
        assert reply.status_code == 200
        assert (await http.get(f"{kept}/nope")).json()["code"] == "not_found"


async def test_the_page_is_at_the_prefix_with_and_without_a_slash(engine: Engine) -> None:
    async with proxied(create_app(Settings(root_path=f"{PREFIX}/"), engine)) as http:
        for path in (PREFIX, f"{PREFIX}/", "/"):
            assert (await http.get(path)).text == PAGE
        for path in ("/apps", f"{PREFIX}x", f"{PREFIX}x/model", f"x{PREFIX}"):
            assert (await http.get(path)).status_code == 404


async def test_metrics_know_routes_without_the_prefix(engine: Engine) -> None:
    app = create_app(Settings(root_path=PREFIX), engine)
    async with proxied(app) as http:
        for path in ("/model", f"{PREFIX}/model", f"{PREFIX}{PREFIX}/model"):
            await http.get(path)
    page = app.state.metrics.page().decode()
    assert 'snapensemble_requests_total{code="200",route="/model"} 2.0' in page
    assert 'snapensemble_requests_total{code="404",route="other"} 1.0' in page
    assert PREFIX not in page


async def test_tokens_are_wanted_under_the_prefix_where_they_are_without_it(
    engine: Engine,
) -> None:
    app = create_app(Settings(root_path=PREFIX, tokens=SecretStr(TOKEN)), engine)
    async with proxied(app) as http:
        for path in ("/", "/health/live", "/health/ready"):
            assert (await http.get(PREFIX + path)).status_code == 200
        for path in ("/model", "/predict", f"{PREFIX}/", "/nope"):
            assert (await http.get(PREFIX + path)).status_code == 401
            assert (await http.get(PREFIX + path, headers=RIGHT)).status_code != 401


@pytest.mark.parametrize("settings", [Settings(), Settings(root_path=PREFIX)])
async def test_what_the_docs_page_loads_is_there(engine: Engine, settings: Settings) -> None:
    prefix = settings.root_path
    async with proxied(create_app(settings, engine)) as http:
        page = await http.get(f"{prefix}/docs")
        loaded = re.findall(r'(?:src|href)="([^"]+)"|url: \'([^\']+)\'', page.text)
        links = [one or other for one, other in loaded if not one.startswith("data:")]
        assert len(links) == 3
        for link in links:
            url = urljoin(f"http://test{prefix}/docs", link)
            assert url.startswith(f"http://test{prefix}/")
            assert (await http.get(url)).status_code == 200


async def test_the_document_says_where_to_ask(engine: Engine) -> None:
    for settings, headers, expected in (
        (Settings(), {}, None),
        (Settings(root_path=PREFIX), {}, PREFIX),
        (Settings(), {"x-forwarded-prefix": f"{PREFIX}/"}, PREFIX),
        (Settings(root_path=PREFIX), {"x-forwarded-prefix": "/other"}, PREFIX),
    ):
        app = create_app(settings, engine)
        async with proxied(app, **headers) as http:
            document = (await http.get("/openapi.json")).json()
        assert document.pop("servers", None) == (expected and [{"url": expected}])
        assert document == app.state.document()


async def test_proxies_behind_each_other_are_joined(engine: Engine) -> None:
    for headers in (
        [("x-forwarded-prefix", "/outer"), ("x-forwarded-prefix", "/inner/")],
        [("x-forwarded-prefix", "/outer/, /inner")],
    ):
        async with client(create_app(Settings(), engine)) as http:
            document = (await http.get("/openapi.json", headers=headers)).json()
        assert document["servers"] == [{"url": "/outer/inner"}]


async def test_a_header_that_is_no_plain_path_is_passed_over(engine: Engine) -> None:
    async with client(create_app(Settings(), engine)) as http:
        for header in (
            "", "/", "models", "//evil.example", "https://evil.example", "/a//b", "/../a", "/a/..",
            "/a/./b", "/a b", "/a?b", "/a#b", "/%2e%2e", "/a\\b", "/<script>", '/"', "/a" * 200,
            "javascript:alert(1)", "/a,", ",//evil.example",
        ):  # fmt: skip
            reply = await http.get("/openapi.json", headers={"x-forwarded-prefix": header})
            assert reply.status_code == 200, header
            expected = [{"url": "/a"}] if header == "/a," else None
            assert reply.json().get("servers") == expected, header


async def test_the_header_does_not_say_what_a_request_is_for(engine: Engine) -> None:
    async with client(create_app(Settings(tokens=SecretStr(TOKEN)), engine)) as http:
        headers = {"x-forwarded-prefix": "/model"}
        assert (await http.get("/model/", headers={**headers, **RIGHT})).status_code == 404
        assert (await http.get("/model", headers=headers)).status_code == 401
        assert (await http.get("/health/live", headers=headers)).status_code == 200


@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_a_prefix_has_nothing_that_means_something_elsewhere(text: str) -> None:
    for each in (text, f"/{text}"):
        if is_prefix(each):
            assert urljoin("https://host/x/y", f"{each}/predict") == f"https://host{each}/predict"
            assert re.fullmatch(r"[/\w.~@:-]+", each, re.ASCII)


@pytest.mark.parametrize("prefix", ["/predict", "/model/a", "/docs", "/health"])
def test_a_prefix_that_is_a_route_is_refused(engine: Engine, prefix: str) -> None:
    with pytest.raises(InvalidConfig, match=f"--root-path {prefix}: this server has a route /"):
        create_app(Settings(root_path=prefix), engine)
