"""The OpenAPI document, and the page that shows it: both are made once."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from pydantic_core import to_json

from snapensemble.serving.docs_page import render
from snapensemble.serving.http.routes import READ
from snapensemble.serving.page import page_headers


def documentation_router(document: dict[str, Any]) -> APIRouter:
    """/openapi.json and /docs."""
    router = APIRouter()
    text, page = to_json(document), render(document)
    headers = page_headers(page)

    @router.api_route("/openapi.json", methods=READ)
    async def openapi() -> Response:
        return Response(text, media_type="application/json")

    @router.api_route("/docs", methods=READ)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    return router
