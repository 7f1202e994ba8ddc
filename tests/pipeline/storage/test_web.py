"""What a manifest may make this machine ask."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from pipeline.errors import RowError
from pipeline.storage import Source, Storage, retry, web
from pipeline.storage.web import REFUSED, is_public
from tests.pipeline.servers import Answer, Faulty, files, serving


@pytest.fixture
def server() -> Iterator[Faulty]:
    with serving(files({"/a.jpg": b"picture"})) as server:
        yield server


def refused(*urls: str) -> None:
    start = time.monotonic()
    for got in Storage().read([Source(url) for url in urls]):
        assert isinstance(got, RowError)
        assert (got.error_class, got.message) == ("input", REFUSED)
    assert time.monotonic() - start < 1  # once, not again and again


def test_hosts_that_are_not_public_are_not_asked(server: Faulty) -> None:
    port = server.url.rpartition(":")[2]
    hosts = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]",
             "169.254.169.254", "10.0.0.1")  # fmt: skip
    refused(*(f"http://{host}:{port}/a.jpg" for host in hosts))
    refused("https://localhost/a.jpg")
    assert server.asked == []


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:7f00:1]"]
)
def test_other_ways_to_write_them_do_not_help(
    server: Faulty, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    (got,) = Storage().read([Source(f"http://{host}:{server.url.rpartition(':')[2]}/a.jpg")])
    assert isinstance(got, RowError)
    assert server.asked == []


def test_they_are_where_that_is_allowed(server: Faulty) -> None:
    storage = Storage(allow_private=True)
    assert storage.read([Source(f"{server.url}/a.jpg")]) == [b"picture"]


def test_a_redirection_does_not_lead_there(server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        return 302, {"Location": f"{server.url}/a.jpg"}, b""

    with serving(away) as first:
        port = int(first.url.rpartition(":")[2])
        whole = web._public_socket

        def as_if_the_first_were_public(info: Any) -> socket.socket:
            return socket.socket(*info[:3]) if info[4][1] == port else whole(info)

        monkeypatch.setattr(web, "_public_socket", as_if_the_first_were_public)
        refused(f"{first.url}/b.jpg")
        assert first.asked
    assert server.asked == []


def test_a_host_that_never_answers_costs_its_row(
    server: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    server.latency = 1.0
    start = time.monotonic()
    (got,) = Storage(allow_private=True).read([Source(f"{server.url}/a.jpg")])
    assert isinstance(got, RowError)
    assert "Timeout" in got.message
    assert time.monotonic() - start < 4


def test_an_answer_without_end_costs_its_row(
    server: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 6)
    (got,) = Storage(allow_private=True).read([Source(f"{server.url}/a.jpg")])
    assert isinstance(got, RowError)
    assert "its host sends more than" in got.message
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1",
     "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::"],
)  # fmt: skip
def test_private_addresses(host: str) -> None:
    assert not is_public(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "151.101.0.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(host: str) -> None:
    assert is_public(host)
