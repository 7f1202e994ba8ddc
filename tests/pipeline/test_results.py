from __future__ import annotations

import pytest

from pipeline.results import FAILURES_TOLD, MANY_FAILED, Failure, ShardResult, Summary


def summary(rows: int = 100, max_failed: float = 0.05) -> Summary:
    return Summary("/out", "/out/images", "red", rows, done=0, failed=0, max_failed=max_failed)


def result(done: int, failed: int, why: str = "the file is empty") -> ShardResult:
    found = ShardResult("key", seconds={"decode": 1.0})
    for _ in range(done):
        found.add_done(source_bytes=10, output_bytes=20, output_pixels=30)
    for number in range(failed):
        found.add_failed(Failure(f"{number}.jpg", f"/{number}.jpg", "input", "decode", why))
    return found


def test_shards_add_up() -> None:
    total = summary()
    total.add(result(40, 2))
    total.add(result(57, 1, "damaged"))
    assert (total.done, total.failed, total.new_done, total.new_failed) == (97, 3, 97, 3)
    assert (total.source_bytes, total.output_bytes, total.output_pixels) == (970, 1940, 2910)
    assert total.stages == {"decode": 2.0}
    assert total.reasons == {"the file is empty": 2, "damaged": 1}
    assert (total.complete, total.succeeded) == (True, True)


def test_only_the_first_failures_are_told_but_all_are_counted() -> None:
    total = summary(rows=1000)
    total.add(result(0, FAILURES_TOLD + 50))
    total.add(result(0, 10))
    assert len(total.failures) == FAILURES_TOLD
    assert (total.failed, total.reasons["the file is empty"]) == (160, 160)


def test_the_slowest_shards_are_those_with_the_fewest_rows_a_second() -> None:
    total = summary(rows=1000)
    for rows in range(1, 10):
        shard = ShardResult(f"{rows} rows", done=rows, seconds={"wall": 3.0 if rows == 6 else 1.0})
        total.add(shard)
    assert [shard.key[0] for shard in total.slowest] == ["1", "2", "6", "3", "4"]


@pytest.mark.parametrize(("failed", "succeeded"), [(5, True), (6, False)])
def test_more_failed_rows_than_allowed_are_no_success(failed: int, succeeded: bool) -> None:
    total = summary()
    total.add(result(100 - failed, failed))
    assert total.complete
    assert total.succeeded is succeeded


def test_rows_not_accounted_for_are_no_success() -> None:
    total = summary()
    total.add(result(99, 0))
    assert not total.complete
    assert "1 not accounted for" in str(total)


def test_a_run_is_hopeless_only_when_many_rows_failed() -> None:
    total = summary(rows=100)
    total.add(result(0, MANY_FAILED - 1))
    assert total.too_many_failed
    assert not total.hopeless
    total.add(result(0, 1))
    assert total.hopeless


def test_many_failed_rows_of_very_many_are_not_hopeless() -> None:
    total = summary(rows=100_000)
    total.add(result(0, MANY_FAILED))
    assert not total.hopeless


def test_a_summary_is_one_sentence() -> None:
    total = summary(rows=2000)
    total.add(result(1990, 10))
    assert str(total) == "1,990 of 2,000 stylized, 10 failed"
    total.stopped = "no space"
    assert str(total) == "1,990 of 2,000 stylized, 10 failed; stopped: no space"
    assert not total.succeeded
    nothing = Summary("/out", "/out/images", "red", 5, done=5, failed=0, max_failed=0.05)
    assert str(nothing) == "5 of 5 stylized; nothing was left to do"
