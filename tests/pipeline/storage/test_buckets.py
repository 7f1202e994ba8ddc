"""S3 by obstore: the same objects as by s3fs, and out of the way where it does not go."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from fsspec import filesystem
from fsspec.config import conf

from pipeline.storage import Storage, buckets
from pipeline.storage.buckets import FAILURES, Buckets
from tests.pipeline.servers import Faulty, forward, serving

DAY = "Sun, 22 Nov 2026 12:00:00 GMT"
ODD = ["a b", "süß/漢", "100%", "a%20b", "#1", "a::b", "a+b&c=d@e~f", "[*?]{}", "'\"", "...", "a."]


@pytest.fixture
def bucket(s3: str) -> str:
    return s3.removeprefix("s3://")


def reached(**options: object) -> Buckets:
    return Buckets(filesystem("s3", skip_instance_cache=True, **options), 10, 10)


@pytest.fixture
def faulty(s3: str, s3_server: str) -> Iterator[Faulty]:
    with serving(forward(s3_server)) as server:
        yield server


def keys(bucket: str) -> set[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=bucket)
    return {item["Key"] for item in found.get("Contents", [])}


def test_names_stay_as_they_are(bucket: str) -> None:
    ours, files = reached(), {f"{bucket}/{name}": name.encode() for name in ODD}
    assert ours.put(files) == list(files)
    assert keys(bucket) == set(ODD)
    nothing = [None] * len(ODD)
    assert ours.read(list(files), nothing, nothing) == list(files.values())


@pytest.mark.parametrize("name", ["/a", "a/", "a//b", "a\nb", "a/../b", "./a", ""])
def test_a_name_that_it_would_change_is_left_alone(bucket: str, name: str) -> None:
    ours = reached()
    assert ours.put({f"{bucket}/{name}": b"x", f"{bucket}/plain": b"y"}) == [f"{bucket}/plain"]
    assert keys(bucket) == {"plain"}
    assert ours.read([f"{bucket}/{name}"], [None], [None]) == [None]


def test_what_is_large_or_not_there_is_left_alone(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "MAX_BYTES", 3)
    ours = reached()
    for _ in range(FAILURES + 1):
        assert ours.put({f"{bucket}/x": b"four"}) == []
        assert ours.read([f"{bucket}/none"], [None], [None]) == [None]
    assert ours.put({f"{bucket}/x": b"few"}) == [f"{bucket}/x"]
    assert ours.read([f"{bucket}/none", f"{bucket}/x"], [None] * 2, [None] * 2) == [None, b"few"]


def test_a_range_is_read(bucket: str) -> None:
    ours = reached()
    ours.put({f"{bucket}/x": b"0123456789"})
    assert ours.read([f"{bucket}/x"] * 2, [0, 4], [3, 9]) == [b"012", b"45678"]


def test_browsers_are_told_what_it_is(bucket: str) -> None:
    reached().put({f"{bucket}/x.jpg": b"", f"{bucket}/x": b""})
    client = boto3.client("s3")
    told = [client.head_object(Bucket=bucket, Key=key)["ContentType"] for key in ("x.jpg", "x")]
    assert told == ["image/jpeg", "application/octet-stream"]


def test_nobody_in_particular_may_ask(bucket: str, faulty: Faulty) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key="x", Body=b"open to all", ACL="public-read")
    ours = reached(anon=True, endpoint_url=faulty.url)
    assert ours.read([f"{bucket}/x"], [None], [None]) == [b"open to all"]


def test_where_it_gets_nowhere_it_is_not_tried_every_time(
    bucket: str, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "REST", 2.0)
    ours, place = reached(endpoint_url=faulty.url), {f"{bucket}/x": b"x"}
    assert ours.put(place)
    faulty.away_until = math.inf
    for _ in range(FAILURES):
        assert ours.put(place) == []
    faulty.away_until, before = 0.0, len(faulty.asked)
    assert ours.put(place) == []
    assert len(faulty.asked) == before
    time.sleep(buckets.REST)
    assert ours.put(place)


def test_variables_that_only_obstore_knows_lead_nowhere(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3.client("s3").create_bucket(Bucket="images")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    assert reached().put({f"{bucket}/images/x": b"x"})
    assert keys(bucket) == {"images/x"}
    assert not keys("images")
    boto3.client("s3").delete_bucket(Bucket="images")


def test_what_fsspec_was_told_elsewhere_is_left_to_s3fs(
    s3: str, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(conf, "s3", {"key": "CONFIGURED", "secret": "x"})
    asked = []
    monkeypatch.setattr(Buckets, "put", lambda *_: asked.append(1) or [])
    Storage({"endpoint_url": faulty.url}).write({f"{s3}/x": b"x"})
    assert not asked
    monkeypatch.delitem(conf, "s3")
    Storage({"endpoint_url": faulty.url}).write({f"{s3}/x": b"x"})
    assert asked


def test_what_a_server_says_of_who_asked_is_not_repeated(
    bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = b"<Error><Code>InvalidToken</Code><Token-0>IQoJb3JpZ2lu</Token-0></Error>"
    with serving(lambda request, body: (400, {}, secret)) as server:
        ours = reached(endpoint_url=server.url)
        for _ in range(FAILURES):
            assert ours.put({f"{bucket}/x": b"x"}) == []
    assert "400" in caplog.text
    assert "IQo" not in caplog.text


def test_an_answer_that_takes_long_is_waited_for_while_it_goes_on(bucket: str) -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in (("Content-Length", "6"), ("ETag", '"x"'), ("Last-Modified", DAY)):
                self.send_header(name, value)
            self.end_headers()
            for _ in range(6):
                time.sleep(0.5)
                self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fs = filesystem("s3", skip_instance_cache=True,
                    endpoint_url=f"http://127.0.0.1:{server.server_port}")  # fmt: skip
    try:
        assert Buckets(fs, 1, 1).read([f"{bucket}/x"], [None], [None]) == [b"xxxxxx"]
    finally:
        server.shutdown()
        server.server_close()


def test_a_call_that_was_cancelled_is_no_data(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_: object) -> bytes:
        raise asyncio.CancelledError

    monkeypatch.setattr(Buckets, "_read", cancelled)
    assert reached().read([f"{bucket}/x"], [None], [None]) == [None]


def test_it_is_freed_with_its_file_system(bucket: str) -> None:
    ours = reached()
    ours.put({f"{bucket}/x": b"x"})
    gone = weakref.ref(ours)
    del ours
    gc.collect()
    assert gone() is None


def test_a_fault_now_and_then_is_no_reason_to_rest(bucket: str, faulty: Faulty) -> None:
    ours, place = reached(endpoint_url=faulty.url), {f"{bucket}/x": b"x"}
    for _ in range(2 * FAILURES):
        faulty.faults = FAILURES - 1
        assert [ours.put(place) for _ in range(FAILURES)] == [[]] * (FAILURES - 1) + [list(place)]
