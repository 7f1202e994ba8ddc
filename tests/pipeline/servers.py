"""HTTP servers on this machine that fail as often as a test wants."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class Faulty:
    """A server whose next ``faults`` answers are 503; ``asked``: what it was asked, in order."""

    url: str = ""
    faults: int = 0
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, bytes], Answer]) -> Iterator[Faulty]:
    """A server that answers with ``answer`` of the request and its body."""
    state = Faulty()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.asked.append(f"{self.command} {self.path}")
            if state.faults:
                state.faults -= 1
                status, headers, content = 503, {}, b""
            else:
                status, headers, content = answer(self, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def files(contents: Mapping[str, bytes]) -> Callable[[BaseHTTPRequestHandler, bytes], Answer]:
    """Serves ``contents``, path to bytes, ranges of them too."""

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        content = contents.get(urlsplit(request.path).path)
        if content is None:
            return 404, {}, b""
        headers = {"Accept-Ranges": "bytes"}
        if not (wanted := request.headers.get("Range")):
            return 200, headers, content
        first, last = wanted.removeprefix("bytes=").split("-")
        end = min(int(last or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
        return 206, headers, content[int(first) : end + 1]

    return answer


def forward(upstream: str) -> Callable[[BaseHTTPRequestHandler, bytes], Answer]:
    """Serves what the server at ``upstream`` answers."""
    address = urlsplit(upstream).netloc

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(address)
        connection.request(request.command, request.path, body, dict(request.headers))
        response = connection.getresponse()
        content = response.read()
        kept = {k: v for k, v in response.getheaders() if k.lower() not in ("connection", "date")}
        kept.pop("Transfer-Encoding", None)
        connection.close()
        return response.status, kept, content

    return answer
