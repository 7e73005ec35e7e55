"""The page at `/`: one file, nothing loaded from elsewhere, and a policy that says so."""

import base64
import hashlib
import re
from importlib.resources import files

PAGE = files("serving").joinpath("page.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    assert found is not None
    return base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()


PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; connect-src 'self'; img-src blob:; frame-ancestors 'none'; "
        f"script-src 'sha256-{_hash_of('script')}'; style-src 'unsafe-inline'"
    ),
    "x-content-type-options": "nosniff",
}
