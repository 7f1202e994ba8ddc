from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import devices, speed
from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.results import Summary
from tests.pipeline.runs import changed


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(pixels: int = 10_000_000, seconds: float = 100.0) -> Summary:
    summary = Summary("/out", "/out/images", "red", rows=8, done=8, failed=0, max_failed=0.05)
    summary.output_pixels, summary.seconds, summary.new_done = pixels, seconds, 1000
    return summary


PLAN = Plan(rows=1000, left=1000, shards=2, left_bytes=1_000_000)


def test_a_first_estimate_is_a_guess(job: Job) -> None:
    seconds, is_measured = speed.estimate(job, PLAN)
    assert seconds is not None
    assert seconds > 0
    assert not is_measured


def test_the_next_estimate_is_by_what_was_measured(job: Job) -> None:
    speed.remember(job, measured(pixels=10_000_000, seconds=100))
    seconds, is_measured = speed.estimate(changed(job, size="200x100"), PLAN)
    assert seconds == pytest.approx(1000 * 200 * 100 / 100_000)
    assert is_measured


def test_tiny_images_take_their_time_too(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "cpu_count", lambda: 2)
    tiny = changed(job, size="1")
    assert speed.estimate(tiny, PLAN)[0] == pytest.approx(1000 / (2 * speed.IMAGES_OF_CORE))


def test_the_last_run_counts(job: Job) -> None:
    speed.remember(job, measured(pixels=10_000_000))
    speed.remember(job, measured(pixels=20_000_000))
    assert speed.estimate(job, PLAN)[0] == pytest.approx(1000 * 64 * 64 / 200_000)


@pytest.mark.parametrize(
    "other",
    [{"size": "native"}, {"workers": 2}, {"pack": "/other.pth"}, {"precision": "fp32"}],
)
def test_other_kinds_of_jobs_have_a_speed_of_their_own(
    job: Job, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_amx", lambda: True)
    speed.remember(job, measured())
    assert not speed.estimate(changed(job, **other), PLAN)[1]
    speed.remember(changed(job, **other), measured(pixels=5))
    assert speed.estimate(job, PLAN)[0] == pytest.approx(1000 * 64 * 64 / 100_000)


def test_short_runs_measure_nothing(job: Job) -> None:
    speed.remember(job, measured(seconds=20))
    speed.remember(job, measured(pixels=0))
    assert not speed.estimate(job, PLAN)[1]


def test_native_sizes_are_estimated_by_bytes(job: Job) -> None:
    native = changed(job, size="native")
    speed.remember(native, measured(pixels=10_000_000, seconds=100))
    few, _ = speed.estimate(native, PLAN)
    twice, _ = speed.estimate(native, Plan(left=1000, shards=2, left_bytes=2_000_000))
    assert few is not None
    assert twice == pytest.approx(2 * few)
    half_known = Plan(left=1000, shards=2, left_bytes=500_000, unknown_sizes=500)
    assert speed.estimate(native, half_known)[0] == pytest.approx(few)


def test_nothing_is_estimated_where_nothing_tells(job: Job) -> None:
    native = changed(job, size="native")
    assert speed.estimate(native, Plan(left=10, shards=1, unknown_sizes=10)) == (None, False)


def test_nothing_left_takes_no_time(job: Job) -> None:
    for settings in ({"size": "native"}, {"size": "64"}):
        assert speed.estimate(changed(job, **settings), Plan(rows=10, done=10))[0] == 0


def test_a_damaged_or_unwritable_cache_is_no_trouble(job: Job, cache: Path) -> None:
    speed.remember(job, measured())
    (file,) = [path for path in cache.rglob("*") if path.is_file()]
    for content in ("not json", "{}", ""):
        file.write_text(content)
        assert not speed.estimate(job, PLAN)[1]
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("in the way")
    speed.remember(job, measured())
    assert not speed.estimate(job, PLAN)[1]
