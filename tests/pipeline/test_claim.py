"""One run at a time on an output folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import claim as claim_module
from pipeline.claim import Claim, Lease, TakenOver
from pipeline.errors import RequestError, SystemFault
from pipeline.job import Job
from pipeline.run import begin, prepare
from pipeline.storage import Storage
from pipeline.url import join


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(claim_module, "STALE_AFTER", 1.0)
    monkeypatch.setattr(claim_module, "LOOK_EVERY", 0.05)


@pytest.fixture(params=["disk", "bucket"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3")


@pytest.fixture
def claims(out: str) -> Iterator[list[Claim]]:
    """Three runs that want the same folder."""
    made = [Claim(Storage(), out) for _ in range(3)]
    yield made
    for claim in made:
        claim.release()


def written(out: str) -> dict[str, Any] | None:
    data = Storage().read_one(join(out, ".restyle-claim"))
    return json.loads(data) if data else None


def test_the_second_is_told_who_is_at_work(claims: list[Claim], out: str) -> None:
    claims[0].take()
    with pytest.raises(RequestError, match=rf"another run works on .*: process {os.getpid()} on "):
        claims[1].take()
    claims[0].check()


def test_a_claim_is_renewed_and_given_back(claims: list[Claim], out: str) -> None:
    claims[0].take()
    first = written(out)
    assert first is not None
    time.sleep(0.4)
    second = written(out)
    assert second is not None
    assert second["renewed"] > first["renewed"]
    claims[0].release()
    assert written(out) is None
    claims[1].take()
    claims[0].release()  # once more does not take it from the next
    assert written(out) is not None


def test_of_many_at_once_one_gets_it(out: str) -> None:
    claims = [Claim(Storage(), out) for _ in range(6)]
    won: list[Claim] = []
    barrier = threading.Barrier(len(claims))

    def try_it(claim: Claim) -> None:
        barrier.wait()
        try:
            claim.take()
            won.append(claim)
        except RequestError:
            pass

    threads = [threading.Thread(target=try_it, args=(claim,)) for claim in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_a_claim_from_elsewhere_that_is_not_renewed_is_taken_over(
    claims: list[Claim], out: str
) -> None:
    left = {"host": "elsewhere", "pid": 1, "since": "2026-01-01", "token": "x"}
    Storage().write({join(out, ".restyle-claim"): json.dumps(left).encode()})
    start = time.monotonic()
    claims[0].take()
    assert 0.9 < time.monotonic() - start < 5
    claims[0].check()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}"])
def test_a_claim_that_says_nothing_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".restyle-claim").write_bytes(content)
    claim = Claim(Storage(), str(tmp_path))
    claim.take()
    claim.release()


def test_who_was_taken_over_is_told(claims: list[Claim], out: str) -> None:
    claims[0].take()
    theirs = {"host": "elsewhere", "pid": 7, "token": "x"}
    Storage().write({join(out, ".restyle-claim"): json.dumps(theirs).encode()})
    time.sleep(0.3)
    with pytest.raises(SystemFault, match=r"taken over .*: process 7 on elsewhere"):
        claims[0].check()
    claims[0].release()
    assert written(out) == theirs


def test_a_worker_sees_that_the_folder_is_not_its_runs_any_more(
    claims: list[Claim], out: str
) -> None:
    claims[0].take()
    lease = Lease(Storage(), out, claims[0].token)
    lease.check()
    Storage().delete(join(out, ".restyle-claim"))
    lease.check()  # by then the run has put it back
    claims[0].release()
    claims[1].take()
    lease.check(at_most=60)  # it was so a moment ago
    with pytest.raises(TakenOver, match=f"taken over .*: process {os.getpid()} on"):
        lease.check()
    claims[1].release()
    with pytest.raises(TakenOver, match="the run has ended"):
        lease.check()


HOLD = """
import sys, time
from pipeline.claim import Claim
from pipeline.storage import Storage
Claim(Storage(), sys.argv[1]).take()
print("taken", flush=True)
time.sleep(60)
"""


def test_a_run_that_was_killed_here_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "STALE_AFTER", 30.0)
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"taken\n"
    claim = Claim(Storage(), str(tmp_path))
    with pytest.raises(RequestError, match=f"process {child.pid} on"):
        claim.take()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    start = time.monotonic()
    claim.take()
    assert time.monotonic() - start < 2
    claim.release()


def test_a_job_cannot_begin_twice(job: Job) -> None:
    first, second = prepare(job), prepare(job)
    begin(first)
    with pytest.raises(RequestError, match="another run works on"):
        begin(second)
    assert (Path(job.out) / ".restyle" / "plan").exists()
    first.claim.release()
    begin(second)
    second.claim.release()
    assert not (Path(job.out) / ".restyle-claim").exists()
