"""S3 by obstore: the same objects as by s3fs, and out of the way where it does not go."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import boto3
import pytest
from fsspec import filesystem

from pipeline import buckets
from pipeline.buckets import FAILURES, Buckets
from tests.pipeline.servers import Faulty, forward, serving

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


def test_a_fault_now_and_then_is_no_reason_to_rest(bucket: str, faulty: Faulty) -> None:
    ours, place = reached(endpoint_url=faulty.url), {f"{bucket}/x": b"x"}
    for _ in range(2 * FAILURES):
        faulty.faults = FAILURES - 1
        assert [ours.put(place) for _ in range(FAILURES)] == [[]] * (FAILURES - 1) + [list(place)]
