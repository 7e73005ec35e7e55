"""A real nginx that shows servers under paths, with and without stripping them."""

import gzip
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from snapensemble.server_process import server_process
from snapensemble.serving.http.pages import PAGE
from tests.factories import encoded, make_bundle, picture
from tests.serving.http.nginx import needs_nginx, nginx

PNG = encoded(picture(1))
pytestmark = needs_nginx
# Named after what nginx does with the path; the servers listen on a port and on a Unix socket.
LOCATIONS = """
location /stripped/ { proxy_pass %(plain)s/; proxy_set_header X-Forwarded-Prefix /stripped; }
location /a/kept { proxy_pass http://unix:%(uds)s; }
location /a/kept/too/ { proxy_pass http://unix:%(uds)s:/; }
"""


@pytest.fixture(scope="module")
def front() -> Iterator[httpx.Client]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bundle_dir = make_bundle(directory / "bundle")
        uds = directory / "s.sock"
        with (
            server_process(bundle_dir, "--port", "0") as (_, plain),
            server_process(bundle_dir, "--uds", str(uds), "--root-path", "/a/kept") as (_, url),
        ):
            assert url == f"unix:{uds}"
            with nginx(directory, LOCATIONS % {"plain": plain, "uds": uds}) as http:
                yield http


@pytest.mark.parametrize("prefix", ["/stripped", "/a/kept"])
def test_all_that_the_document_names_is_where_it_says(front: httpx.Client, prefix: str) -> None:
    document = front.get(f"{prefix}/openapi.json").json()
    assert document["servers"] == [{"url": prefix}]
    names = {"model": "insects", "version": "0badcafe", "label": "stable"}
    for template, item in document["paths"].items():
        path = template.format(**names)
        for method in item:
            reply = front.request(method, prefix + path)
            assert reply.status_code not in (404, 405, 502), f"{method} {path}"
    reply = front.post(f"{prefix}/predict", content=PNG)
    assert reply.json()["predictions"][0]["members_used"] == 3
    packed = {"content-encoding": "gzip"}
    again = front.post(f"{prefix}/predict", content=gzip.compress(PNG), headers=packed)
    assert again.json() == reply.json()


@pytest.mark.parametrize("prefix", ["/stripped", "/a/kept"])
def test_pages_and_what_they_load_are_under_the_path(front: httpx.Client, prefix: str) -> None:
    assert front.get(f"{prefix}/").text == PAGE
    page = front.get(f"{prefix}/docs").text
    links = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page)
    assert len(links) == 2
    for link in [*links, "openapi.json"]:
        assert front.get(urljoin(f"http://front{prefix}/docs", link)).status_code == 200


def test_metrics_name_routes_without_the_path(front: httpx.Client) -> None:
    front.get("/a/kept/model")
    front.get("/a/kept/too/model")  # nginx strips it from this one
    page = front.get("/a/kept/metrics").text
    assert 'snapensemble_requests_total{code="200",route="/model"}' in page
    assert "kept" not in page
