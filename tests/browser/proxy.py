"""A reverse proxy that serves another server under a path, and says 502 in HTML if that is gone."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BAD_GATEWAY = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


@contextlib.contextmanager
def proxied(url: str, prefix: str) -> Iterator[str]:
    """Run the proxy until the end of the block; what it gives is where the first page is.

    Args:
        url: of the server behind it.
        prefix: such as `/digits`; that path itself leads to the first page, too.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.forward()

        def do_POST(self) -> None:
            self.forward()

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.removeprefix(prefix)
            if path == self.path:
                return self.answer(404, "text/plain", b"the proxy has nothing here")
            upstream = http.client.HTTPConnection(urlsplit(url).netloc)
            try:
                headers = {"Content-Type": self.headers.get("Content-Type", "text/plain")}
                upstream.request(self.command, path or "/", body, headers)
                reply = upstream.getresponse()
                self.answer(reply.status, reply.headers["Content-Type"], reply.read())
            except OSError:
                self.answer(502, "text/html", BAD_GATEWAY)
            finally:
                upstream.close()

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
