"""Images that crash or hang the process that decodes them."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import workers
from pipeline.errors import ShardLost
from pipeline.inhand import NOBODY, SLOTS, Board
from pipeline.job import Job
from pipeline.results import ShardResult
from pipeline.worker import Message
from pipeline.workers import WorkerPool
from tests.pipeline.runs import changed, committed, ledger_of, plan_job, run_job

# What a worker imports first. No decoder that is at hand crashes, so these are given faults.
FAULTY = """
import ctypes
from pipeline import codec
whole = codec.decode

def decode(data, *rest):
    if data.endswith(b"CRASH"):
        ctypes.string_at(0)
    if data.endswith(b"HANG"):
        7 ** 10**9  # for hours, and no other thread comes to run
    return whole(data, *rest)

codec.decode = decode
"""


@pytest.fixture
def faulty(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of one shard, whose workers' decoder is faulty."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return changed(job, shard_size=8)


@pytest.fixture
def pools() -> Iterator[list[WorkerPool]]:
    made: list[WorkerPool] = []
    yield made
    for pool in made:
        pool.close()


def spoil(job: Job, name: str, how: bytes) -> None:
    path = Path(job.source, name)
    path.write_bytes(path.read_bytes() + how)


def do(job: Job, pools: list[WorkerPool]) -> tuple[ShardResult, list[str]]:
    """Do the only shard of a job; the result, and what was said meanwhile."""
    _, (ref,) = plan_job(job)
    pool = WorkerPool(job, ["cpu"], threads=1)
    pools.append(pool)
    messages: list[Message] = []
    result = pool.run(ref, messages.append)
    return result, [m.getMessage() for m in messages if isinstance(m, logging.LogRecord)]


def failures(job: Job) -> dict[str, str]:
    rows = ledger_of(job.out).to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert Path(job.out, "images", row["id"]).exists() == (row["status"] == "done")
    return {row["id"]: row["error_message"] for row in rows if row["status"] == "failed"}


def test_images_that_crash_the_decoder_cost_themselves_only(
    faulty: Job, pools: list[WorkerPool]
) -> None:
    bad = ["000.jpg", "002.jpg", "003.jpg", "005.jpg", "007.jpg"]
    for name in bad:
        spoil(faulty, name, b"CRASH")
    result, said = do(faulty, pools)
    assert (result.done, result.failed) == (3, 5)
    why = "2 worker processes ended while they did it alone"
    assert failures(faulty) == dict.fromkeys(bad, why)
    assert sum("exit code -11" in line for line in said) >= 10
    # Where the decoder has been mended, the next run does them without being asked.
    assert run_job(faulty).done == 8


def test_an_image_that_hangs_costs_itself_only(faulty: Job, pools: list[WorkerPool]) -> None:
    faulty = changed(faulty, max_seconds=1.5)
    spoil(faulty, "003.jpg", b"HANG")
    result, _ = do(faulty, pools)
    assert (result.done, result.failed) == (7, 1)
    assert failures(faulty) == {"003.jpg": "decoding takes longer than 1.5 s (--max-seconds)"}


def test_what_every_worker_dies_of_is_no_fault_of_the_images(
    faulty: Job, pools: list[WorkerPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CRASHERS", 1)
    for number in range(8):
        spoil(faulty, f"{number:03d}.jpg", b"CRASH")
    with pytest.raises(ShardLost, match="exit code -11"):
        do(faulty, pools)
    assert committed(Path(faulty.out)) == 0


def test_deaths_tell_more_and_more() -> None:
    many = NOBODY.after_death(frozenset([3, 4]))
    assert many.strikes == {3: 0, 4: 0}
    assert not NOBODY.are_explained_by(frozenset([3]))  # it may have been anything
    assert not many.are_explained_by(frozenset([3, 4]))
    assert not many.are_explained_by(frozenset())
    assert many.are_explained_by(frozenset([4]))
    once = many.after_death(frozenset([4]))
    assert (once.strikes, once.lost) == ({3: 0, 4: 1}, {})
    twice = once.after_death(frozenset([4]))
    assert twice.strikes == {3: 0}
    assert list(twice.lost) == [4]
    late = twice.after_death(frozenset([3, 7]), "late")
    assert (late.strikes, late.lost) == ({3: 0, 7: 0}, twice.lost)
    assert late.after_death(frozenset([7]), "late").lost == {**twice.lost, 7: "late"}


def test_a_board_says_what_is_in_hand_and_whether_for_too_long() -> None:
    board = Board()
    assert board.rows() == frozenset()
    with board.holding([0, 7]), board.holding([3], seconds=0.05):
        assert board.rows() == {0, 3, 7}
        assert not board.is_overdue()
        time.sleep(0.1)
        assert board.is_overdue()
    assert board.rows() == frozenset()
    assert not board.is_overdue()


def test_a_board_has_room_again() -> None:
    board = Board()
    for _ in range(3):
        with board.holding(range(2 * SLOTS)):
            assert board.rows() == set(range(SLOTS))
    threads = [threading.Thread(target=hold, args=(board, row)) for row in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert board.rows() == frozenset()


def hold(board: Board, row: int) -> None:
    for _ in range(50):
        with board.holding([row]):
            assert row in board.rows()


CHILD = """
import sys, time
from pipeline.inhand import Board

with Board(int(sys.argv[1])).holding([5, 6]):
    print("holding", flush=True)
    time.sleep(60)
"""


def test_a_board_outlives_its_writer() -> None:
    board = Board()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(board.descriptor)],
        pass_fds=[board.descriptor], stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    board.close()
    assert child.stdout.readline() == b"holding\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert board.rows() == {5, 6}
