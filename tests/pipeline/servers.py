"""HTTP servers on this machine that fail as often as a test wants."""

from __future__ import annotations

import http.client
import logging
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Answer = tuple[int, Mapping[str, str], bytes]


# How an answer can fail: two that say so, a connection that is reset before the request is
# carried out, one that ends within the answer, and an answer that takes long.
WAYS = ("503", "500", "reset", "cut", "delay")
SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: what is left is thrown away


def s3_server() -> str:
    """The address of an S3 server in this process, until that ends."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def s3_environment(address: str) -> dict[str, str]:
    """What leads a process, and its children, to the S3 server at an address."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }


def s3_bucket() -> str:
    """The URL of a bucket on an S3 server of its own; the environment leads there from now on."""
    import boto3

    os.environ |= s3_environment(s3_server())
    boto3.client("s3").create_bucket(Bucket="proof")
    return "s3://proof"


@dataclass
class Faulty:
    """A server that fails; ``asked``: what it was asked, in order, ``failed``: how often and how.

    Its next ``faults`` answers are 503. Of all others a ``share`` fails in one of WAYS, drawn by
    lot; slow ones take up to ``delay`` seconds. Until ``away_until``, of time.monotonic(),
    nobody is answered. Every answer takes ``latency`` seconds more.
    """

    url: str = ""
    faults: int = 0
    share: float = 0.0
    delay: float = 1.0
    away_until: float = 0.0
    latency: float = 0.0
    asked: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    lot: random.Random = field(default_factory=lambda: random.Random(0))

    def fault(self) -> str:
        """How this answer shall fail, if it shall."""
        way = ""
        if time.monotonic() < self.away_until:
            way = "away"
        elif self.faults:
            self.faults -= 1
            way = "503"
        elif self.lot.random() < self.share:
            way = self.lot.choice(WAYS)
        self.failed.update([way] if way else [])
        return way


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, bytes], Answer]) -> Iterator[Faulty]:
    """A server that answers with ``answer`` of the request and its body."""
    state = Faulty()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.asked.append(f"{self.command} {self.path}")
            way = state.fault()
            time.sleep(state.latency)
            if way in ("away", "reset"):
                self._hang_up()
                return
            if way == "delay":
                time.sleep(state.delay * state.lot.random())
            if way in ("500", "503"):
                status, headers, content = int(way), {}, SLOW_DOWN if way == "503" else b""
            else:
                status, headers, content = answer(self, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            if way == "cut" and not content:
                self._hang_up()  # it was carried out, but nobody is told
                return
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if way == "cut" else content)
            if way == "cut":
                self._hang_up()

        def _hang_up(self) -> None:
            self._headers_buffer: list[bytes] = []
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_connection = True

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
