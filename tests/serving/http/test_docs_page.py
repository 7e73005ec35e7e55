import re

import httpx
import pytest

from snapensemble.serving.docs_page import render
from snapensemble.serving.http.openapi import describe
from snapensemble.serving.settings import Settings
from tests.serving.http.test_openapi import DOCUMENT

PAGE = render(DOCUMENT)


async def test_the_page_is_served_under_its_own_policy(http: httpx.AsyncClient) -> None:
    reply = await http.get("/docs")
    assert reply.text == render(
        describe(Settings(max_images_per_request=4, max_body_bytes=100_000), guarded=False)
    )
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_have_nothing_that_their_policy_forbids(
    http: httpx.AsyncClient, path: str
) -> None:
    text = (await http.get(path)).text
    assert "http://" not in text and "https://" not in text
    assert not re.search(r"""\s(style|on\w+|src)\s*=\s*["']""", text)
    assert len(re.findall("<script", text)) == len(re.findall("<style", text)) == 1


async def test_the_first_page_leads_to_it(http: httpx.AsyncClient) -> None:
    assert 'href="/docs"' in (await http.get("/")).text


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_path_is_on_the_page(path: str) -> None:
    assert f"</span> {path}</h2>" in PAGE


def test_parameters_problems_and_objects_are_on_the_page() -> None:
    for word in ("deadline_ms", "invalid_image", "Retry-After", "image/*", "Bearer TOKEN"):
        assert f"<code>{word}" in PAGE or word in PAGE
    for name in DOCUMENT["components"]["schemas"]:
        assert f'<details id="{name}">' in PAGE


def test_links_on_the_page_lead_somewhere() -> None:
    for name in re.findall(r'href="#(\w+)"', PAGE):
        assert f'id="{name}"' in PAGE


def test_text_of_the_document_cannot_become_markup() -> None:
    document = describe(Settings(), guarded=False)
    document["paths"]["/model"]["get"]["summary"] = "<script>alert(1)</script>"
    assert "<script>alert" not in render(document)


def test_a_picture_can_be_tried() -> None:
    form = re.search(r'<form data-path="/predict".*?</form>', PAGE, re.DOTALL)
    assert form is not None and 'type="file"' in form[0] and 'name="top"' in form[0]
