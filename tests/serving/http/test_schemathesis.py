"""Requests that schemathesis makes of the OpenAPI document, to a real server."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="installed for development only")

import schemathesis
from hypothesis import settings
from hypothesis import strategies as st
from schemathesis import checks

from snapensemble.server_process import server_process
from snapensemble.serving.settings import Settings
from tests.factories import encoded, make_cascade_bundle, picture
from tests.openapi import document_of

pytestmark = pytest.mark.extra

PICTURES = [encoded(picture(seed), kind) for seed, kind in enumerate(["PNG", "JPEG", "BMP", "GIF"])]
MAY_FAIL = (503, 504)  # too much to do, and a deadline too near
CONFORMS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]

OWN = r"^/($|predict|model$|health/|metrics|docs|openapi)"  # not only of another contract

SOME_BODY = st.sampled_from(PICTURES) | st.sampled_from(PICTURES) | st.binary()
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, SOME_BODY)
api = schemathesis.openapi.from_dict(document_of(Settings(), guarded=False))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bundle_dir = make_cascade_bundle(tmp_path_factory.mktemp("schemathesis") / "bundle")
    with server_process(bundle_dir, "--port", "0") as (_, url):
        yield url


@api.include(path_regex=OWN).parametrize()
@settings(max_examples=60)
def test_answers_are_as_the_document_declares_them(case: schemathesis.Case[Any], url: str) -> None:
    check(case, url)


# They share what reads them: `adapters/test_every_contract.py` sends more to all of it.
@api.exclude(path_regex=OWN).parametrize()
@settings(max_examples=12)
def test_so_are_those_in_other_contracts(case: schemathesis.Case[Any], url: str) -> None:
    check(case, url)


def check(case: schemathesis.Case[Any], url: str) -> None:
    """Send a request, and hold the answer to the document."""
    response = case.call(base_url=url, timeout=30)
    assert response.status_code < 500 or response.status_code in MAY_FAIL
    case.validate_response(response, checks=CONFORMS)
