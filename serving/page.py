"""The page at `/`, and the policy of pages: one file each, nothing loaded from elsewhere."""

import base64
import hashlib
import re
from importlib.resources import files


def read_page(name: str) -> str:
    """A page of this package."""
    return files("serving").joinpath(name).read_text(encoding="utf-8")


def page_headers(page: str) -> dict[str, str]:
    """A Content-Security-Policy under which a page's own script and style work, and no others."""
    return {
        "content-security-policy": (
            "default-src 'none'; connect-src 'self'; img-src blob:; frame-ancestors 'none'; "
            "base-uri 'none'; form-action 'none'; "
            f"script-src 'sha256-{_hash_of('script', page)}'; "
            f"style-src 'sha256-{_hash_of('style', page)}'"
        ),
        "x-content-type-options": "nosniff",
    }


def _hash_of(tag: str, page: str) -> str:
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


PAGE = read_page("page.html")
PAGE_HEADERS = page_headers(PAGE)
