"""The pages for people, whose policies let them load nothing from elsewhere."""

import base64
import hashlib
import os
import re
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from snapensemble.serving.http.openapi import READ, Document, problem_responses
from snapensemble.serving.settings import Settings, is_prefix

SCRIPTS = ("server.js", "pictures.js", "csv.js", "row.js", "page.js")  # in the order they run
ASSETS = "docs/assets"  # relative to /docs, so it is right behind a proxy with a prefix, too
first_page_router = APIRouter(tags=["pages"], responses=problem_responses())
pages_router = APIRouter(tags=["pages"], responses=problem_responses())


def first_page() -> str:
    """The page for people, with its style and its scripts in it: one answer is all of it."""
    folder = resources.files(__package__) / "page"
    style, *scripts = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", *SCRIPTS)
    )
    markup = (folder / "page.html").read_text(encoding="utf-8")
    return markup.replace("<style>", f"<style>\n{style}").replace(
        "<script>", "<script>\n" + "\n".join(scripts)
    )


class FlatFiles(StaticFiles):
    """The files of one folder, and of none below it.

    To look for a path takes a time that grows with the square of its length.
    """

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """The place of a file, and what the disk says of it; nothing where there is none."""
        return ("", None) if os.sep in path else super().lookup_path(path)


def docs_assets() -> StaticFiles:
    """The script and the style of Swagger UI. Nothing else of the package that has them is used."""
    return FlatFiles(packages=[("fastapi_standalone_docs", "static/swagger")])


def docs_page() -> str:
    """The page on which Swagger UI shows the document."""
    reply = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Snapensemble: the HTTP interface",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={
            "defaultModelsExpandDepth": 0,
            "tryItOutEnabled": True,
            "validatorUrl": None,  # Swagger UI's own is on another host
        },
    )
    # HEAD is as GET everywhere, so the page lists GET alone.
    style = "<style>.swagger-ui .opblock-head { display: none; }</style>"
    return bytes(reply.body).decode().replace("</head>", f"{style}</head>")


def page_headers(page: str, *, files: str = "", images: str) -> dict[str, str]:
    """A Content-Security-Policy under which a page's own script and style work, and no others.

    Args:
        page: the whole text, with one script and one style in it.
        files: the sources from which the page may load scripts and styles, too.
        images: the sources from which it may show pictures.
    """
    return {
        "content-security-policy": (
            f"default-src 'none'; connect-src 'self'; img-src {images}; frame-ancestors 'none'; "
            "base-uri 'none'; form-action 'none'; "
            f"script-src {files}'sha256-{_hash_of('script', page)}'; "
            f"style-src {files}'sha256-{_hash_of('style', page)}'"
        ),
        "x-content-type-options": "nosniff",
    }


def _hash_of(tag: str, page: str) -> str:
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PAGE = first_page()
PAGE_HEADERS = page_headers(PAGE, images="data:")
DOCS = docs_page()
DOCS_HEADERS = page_headers(DOCS, files="'self' ", images="data:")


@first_page_router.api_route("/", methods=READ, response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """A page for people: choose pictures, see their classes. It asks for a token by itself."""
    return HTMLResponse(PAGE, headers=PAGE_HEADERS)


@pages_router.api_route("/docs", methods=READ, response_class=HTMLResponse)
async def docs() -> HTMLResponse:
    """This document as a page."""
    return HTMLResponse(DOCS, headers=DOCS_HEADERS)


@pages_router.api_route("/openapi.json", methods=READ, response_model=dict[str, Any])
async def openapi(request: Request) -> Response:
    """This document."""
    document: Document = request.app.state.document
    return Response(await document.text(prefix_of(request)), media_type="application/json")


def prefix_of(request: Request) -> str:
    """The path under which a proxy shows this server, without a `/` at its end; empty if unknown.

    The setting counts, else X-Forwarded-Prefix, in which each proxy on the way has put its part.
    Anyone can send that header. So it counts only if it is a plain path, and only for the links in
    the document that is the answer to its sender; it never says what a request is for.
    """
    settings: Settings = request.app.state.service.settings
    if settings.root_path:
        return settings.root_path
    lines = ",".join(request.headers.getlist("x-forwarded-prefix")).split(",")
    prefix = "".join([line.strip().rstrip("/") for line in lines])
    return prefix if is_prefix(prefix) else ""
