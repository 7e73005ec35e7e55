"""What clients do before they send: a body packed by each of the codings."""

import gzip
import zlib
from collections.abc import Callable

from snapensemble.serving.http.media.encodings import CODINGS

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def zstd(data: bytes) -> bytes:
    from backports.zstd import compress

    return compress(data)


if "zstd" in CODINGS:
    PACK["zstd"] = zstd
