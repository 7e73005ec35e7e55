import re

import httpx
import pytest
from starlette.staticfiles import StaticFiles

from snapensemble.serving.http.pages import ASSETS, DOCS, PAGE, page_headers


async def test_pages_are_served_under_policies_of_their_own(http: httpx.AsyncClient) -> None:
    for path in ("/", "/docs"):
        reply = await http.get(path)
        assert reply.headers["content-type"].startswith("text/html")
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert not re.search(r"https?:|\*", policy)


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_have_nothing_that_their_policy_forbids(
    http: httpx.AsyncClient, path: str
) -> None:
    text = (await http.get(path)).text
    assert "http://" not in text and "https://" not in text
    assert not re.search(r"""\s(style|on\w+)\s*=\s*["']""", text)
    assert len(re.findall("<script>", text)) == len(re.findall("<style>", text)) == 1


def test_a_page_with_another_script_is_refused() -> None:
    with pytest.raises(ValueError, match="too many values"):
        page_headers(DOCS + "<script>alert(1)</script>", images="data:")


async def test_all_that_the_docs_page_loads_is_there(http: httpx.AsyncClient) -> None:
    text = (await http.get("/docs")).text
    loaded = re.findall(r"""(?:src|href)="([^"]*)"|\burl: '([^']*)'""", text)
    names = {first or second for first, second in loaded} - {"data:,"}
    assert names == {f"{ASSETS}/swagger-ui-bundle.js", f"{ASSETS}/swagger-ui.css", "openapi.json"}
    for name in names:
        reply = await http.get(f"/{name}")
        assert reply.status_code == 200
        kind = {"js": "text/javascript", "css": "text/css", "json": "application/json"}
        assert reply.headers["content-type"].partition(";")[0] == kind[name.rpartition(".")[2]]
        assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "redoc/redoc.standalone.js", "../redoc/redoc.standalone.js"]
)
async def test_nothing_else_of_the_package_is_served(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/{ASSETS}/{name}")).status_code == 404


async def test_a_path_of_many_parts_is_not_looked_for_on_the_disk(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[str] = []

    def look(_: StaticFiles, path: str) -> tuple[str, None]:
        looked_for.append(path)
        return "", None

    monkeypatch.setattr(StaticFiles, "lookup_path", look)
    for name in ("a/b", "a/" * 1000, "nothing.js"):
        assert (await http.get(f"/{ASSETS}/{name}")).status_code == 404
    assert looked_for == ["nothing.js"]


async def test_the_first_page_leads_to_it_by_a_relative_address(http: httpx.AsyncClient) -> None:
    assert 'href="docs"' in (await http.get("/")).text


def test_the_first_page_is_small() -> None:
    assert len(PAGE.encode()) < 40_000
