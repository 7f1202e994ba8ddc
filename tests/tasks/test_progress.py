from __future__ import annotations

import time

from pipeline.plan import Plan
from pipeline.results import ShardResult
from pipeline.worker import Progress
from tasks.progress import Tracker


def test_rows_of_shards_under_way_are_counted_once() -> None:
    tracker = Tracker(Plan(rows=100, done=10, left=90))
    tracker.update("a", Progress(5, 1))
    tracker.update("b", Progress(3, 0))
    tracker.update("a", Progress(8, 2))
    snapshot = tracker.snapshot()
    assert (snapshot.rows, snapshot.done, snapshot.failed) == (100, 21, 2)
    assert snapshot.percent == 23


def test_what_a_lost_shard_told_does_not_count() -> None:
    tracker = Tracker(Plan(rows=20, left=20))
    tracker.update("a", Progress(5, 0))
    tracker.lose("a")
    assert tracker.snapshot().done == 0
    tracker.finish(ShardResult("a", done=9, failed=1))
    assert (tracker.snapshot().done, tracker.snapshot().failed) == (9, 1)


def test_the_load_is_that_of_the_shards_under_way() -> None:
    tracker = Tracker(Plan(rows=40, left=40))
    tracker.update("a", Progress(5, 0, {"decode": 3, "stylize": 4}, {"cuda:0": 100}))
    tracker.update("b", Progress(0, 0, {"decode": 2}, {"cuda:1": 50}))
    tracker.update("a", Progress(6, 0, {"decode": 1, "stylize": 8}, {"cuda:0": 120}))
    assert tracker.snapshot().queues == {"decode": 3, "stylize": 8}
    assert tracker.snapshot().gpu_memory == {"cuda:0": 120, "cuda:1": 50}
    tracker.finish(ShardResult("a", done=20))
    tracker.lose("b")
    assert tracker.snapshot().queues == {"decode": 0, "stylize": 0}
    assert tracker.snapshot().gpu_memory == {"cuda:0": 0, "cuda:1": 0}


def test_the_rate_is_that_of_the_time_since_a_worker_was_ready() -> None:
    tracker = Tracker(Plan(rows=100, left=100))
    assert tracker.snapshot().remaining is None
    time.sleep(0.3)
    tracker.update("a", Progress(0, 0))
    assert tracker.seconds < 0.2
    time.sleep(0.6)
    tracker.update("a", Progress(30, 0))
    snapshot = tracker.snapshot()
    assert 20 < snapshot.rate <= 50
    assert snapshot.remaining is not None
    assert abs(snapshot.remaining - 70 / snapshot.rate) < 1e-6


def test_a_job_with_nothing_to_do_is_complete() -> None:
    assert Tracker(Plan()).snapshot().percent == 100
