"""Which files of `serving` does a prediction pass through, from its bytes to its answer's?

    python -m benchmarks.serving.request_path DIR

One POST, whose body comes with its head in one piece, goes through the server's own protocol
without a socket. Every function that Python enters meanwhile is noted, on the event loop and on the
lanes.
"""

import argparse
import asyncio
import sys
import threading
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from uvicorn.server import ServerState

import snapensemble.serving
from benchmarks.machine import save
from benchmarks.serving.bundles import add_arguments, bundle_of, pictures_of
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.protocol import GuardedProtocol
from snapensemble.serving.inference.engine import load_engine
from snapensemble.serving.process.server import uvicorn_config
from snapensemble.serving.settings import Settings
from snapensemble.serving.telemetry.metrics import Metrics

SERVING = Path(snapensemble.serving.__path__[0])


class Client(asyncio.Transport):
    """The client's end of a connection, which gets the answer in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Two addresses that mean nothing."""
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        """Take the whole answer."""
        self.answer.set_result(bytes(data))

    def is_closing(self) -> bool:
        """Tell that the client stays."""
        return False


class Passed:
    """Notes which functions of the server are entered, in their order."""

    def __init__(self) -> None:
        self.functions: dict[str, list[str]] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call, as `sys.setprofile` reports it."""
        file = Path(frame.f_code.co_filename)
        if event == "call" and SERVING in file.parents:
            named = self.functions.setdefault(str(file.relative_to(SERVING)), [])
            if frame.f_code.co_qualname not in named:
                named.append(frame.f_code.co_qualname)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "request-path")
    args = parser.parse_args()
    with bundle_of(args) as bundle_dir:
        functions = path(bundle_dir, pictures_of(args, bundle_dir).encoded[0])
    rows: list[tuple[str, ...]] = [("file", "functions")]
    rows += [(file, ", ".join(names)) for file, names in functions.items()]
    save(args.name, {"files": len(functions), "functions": functions}, rows)


def path(bundle_dir: Path, picture: bytes) -> dict[str, list[str]]:
    """The functions of each file that a prediction enters, files and functions in their order."""
    passed, metrics = Passed(), Metrics()
    threading.setprofile(passed)  # for the lanes, which start later
    try:
        with load_engine(
            bundle_dir,
            Settings().limits(),
            on_batch=partial(metrics.batch, "model"),
            on_decode=metrics.decoded,
        ) as engine:
            http = partial(
                GuardedProtocol,
                room=sys.maxsize,
                memory=engine.admission.memory,
                on_refusal=metrics.refused,
            )
            config = uvicorn_config(create_app(Settings(), engine, metrics), http)
            config.load()
            new = partial(http, config=config, server_state=ServerState(), app_state={})
            asyncio.run(ask(new, picture, Passed()))  # the first is not like the others
            answer = asyncio.run(ask(new, picture, passed))
    finally:
        threading.setprofile(None)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return passed.functions


async def ask(new: Any, picture: bytes, passed: Passed) -> bytes:
    """The answer to one request."""
    protocol, client = new(_loop=asyncio.get_running_loop()), Client()
    protocol.connection_made(client)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(picture)
    passed.functions.clear()
    sys.setprofile(passed)
    try:
        protocol.data_received(head + picture)
        return await client.answer
    finally:
        sys.setprofile(None)


if __name__ == "__main__":
    main()
