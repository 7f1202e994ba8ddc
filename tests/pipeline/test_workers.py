from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ShardLost, SystemFault
from pipeline.job import Job
from pipeline.results import ShardResult
from pipeline.spool import ShardRef
from pipeline.worker import Message, Progress, _Line
from pipeline.workers import RunEnding, WorkerPool, worker_ahead
from tests.conftest import open_image, write_pack, write_photos
from tests.pipeline.runs import ledger_of, plan_job
from tests.processes import is_running, wait_until, workers_of

ROOT = Path(__file__).parents[2]

Planned = tuple[Job, list[ShardRef]]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, pack: str) -> Planned:
    """A job of five shards, the photos of which take a while."""
    folder = tmp_path_factory.mktemp("workers")
    source = write_photos(folder / "photos", 20, size=256)
    (source / "001.jpg").write_bytes(b"no image")
    request, refs = plan_job(
        Job(
            source=str(source), out=str(folder / "out"), style="red", pack=pack, size="1024",
            device="cpu", shard_size=4, workers=1, precision="fp32",
        )
    )  # fmt: skip
    return request.job, refs


@pytest.fixture(scope="module")
def pool(planned: Planned) -> Iterator[WorkerPool]:
    pool = WorkerPool(planned[0], ["cpu"])
    yield pool
    pool.close()


def ignore(message: Message) -> None:
    pass


def test_a_worker_does_a_shard_and_tells_how_it_goes(planned: Planned, pool: WorkerPool) -> None:
    job, refs = planned
    messages: list[Message] = []
    result = pool.run(refs[0], messages.append)
    assert isinstance(result, ShardResult)
    assert (result.key, result.done, result.failed) == (refs[0].key, 3, 1)
    assert [failure.id for failure in result.failures] == ["001.jpg"]
    table = ledger_of(job.out)
    assert table.column("id").to_pylist() == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]
    assert open_image(Path(job.out, "images/000.jpg").read_bytes()).shape == (1024, 1024, 3)
    assert any(isinstance(message, Progress) for message in messages)
    lines = [m.getMessage() for m in messages if isinstance(m, logging.LogRecord)]
    assert any(line.startswith("3 done, 1 failed; busy: ") for line in lines)


def test_a_worker_does_one_shard_after_another(planned: Planned, pool: WorkerPool) -> None:
    pool.run(planned[1][1], ignore)
    before = workers_of(os.getpid())
    assert pool.run(planned[1][2], ignore).done == 4
    assert workers_of(os.getpid()) == before


def test_a_worker_killed_at_work_is_replaced_and_its_shard_done_again(
    planned: Planned, pool: WorkerPool
) -> None:
    job, refs = planned
    pool.run(refs[2], ignore)
    before = workers_of(os.getpid())
    (worker,) = before
    descriptors = os.listdir("/proc/self/fd")
    said: list[str] = []

    def kill(message: Message) -> None:
        if isinstance(message, logging.LogRecord):
            said.append(message.getMessage())
        elif is_running(worker):
            assert not Path(job.out, "metadata", f"{refs[3].key}.parquet").exists()
            os.kill(worker, signal.SIGKILL)

    try:
        result = pool.run(refs[3], kill)
    except ShardLost as lost:  # it had nothing in hand yet, of which the next would learn
        said.append(str(lost))
        result = pool.run(refs[3], kill)
    assert (result.done, result.failed) == (4, 0)
    assert re.match(rf"worker {worker} ended .* shard 4 .*-9", said[0])
    assert len(workers_of(os.getpid()) - before) == 1
    assert not is_running(worker)
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)  # others may have closed theirs


def test_a_shard_that_cannot_be_read_is_a_fault_of_the_system(
    planned: Planned, pool: WorkerPool
) -> None:
    gone = ShardRef(9, "key", 4, "/nowhere/000000.shards", 0, 9)
    with pytest.raises(SystemFault, match=r"cannot read the plan /nowhere/000000\.shards"):
        pool.run(gone, ignore)
    assert pool.run(planned[1][0], ignore).key == planned[1][0].key


def test_a_worker_that_nobody_knows_what_ails_is_replaced(
    planned: Planned, pool: WorkerPool, tmp_path: Path
) -> None:
    pool.run(planned[1][1], ignore)
    (worker,) = workers_of(os.getpid())
    odd = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"nothing that is needed": [1]}), odd)
    with pytest.raises(ShardLost, match="Traceback"):
        pool.run(ShardRef(9, "key", 1, str(odd), 0, odd.stat().st_size), ignore)
    assert not is_running(worker)
    assert pool.run(planned[1][2], ignore).done == 4


def test_settings_that_no_worker_can_use_are_a_fault_of_the_system(planned: Planned) -> None:
    pool = WorkerPool(planned[0], ["cuda:7"])
    try:
        with pytest.raises(SystemFault, match="cuda:7"):
            pool.run(planned[1][0], ignore)
    finally:
        pool.close()


def test_another_pack_than_that_of_the_run_is_a_fault_of_the_system(
    job: Job, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(Path(job.pack).read_bytes())
    request, refs = plan_job(job.model_copy(update={"pack": str(mine)}))
    write_pack(mine, "red", "green")
    pool = WorkerPool(request.job, ["cpu"])
    try:
        with pytest.raises(SystemFault, match="'red' is not what it was when this run began"):
            pool.run(refs[0], ignore)
    finally:
        pool.close()


def test_what_a_worker_says_has_no_secrets() -> None:
    ours, theirs = Pipe()
    log = logging.Logger("library")
    log.addHandler(_Line(theirs))
    log.warning("cannot reach %s", "https://me:hunter2@host/a.jpg?X-Amz-Signature=abc")
    message = ours.recv()
    assert isinstance(message, logging.LogRecord)
    assert message.getMessage() == "cannot reach https://host/a.jpg"


def test_that_a_run_ends_is_known_after_a_way_between_processes() -> None:
    assert isinstance(pickle.loads(pickle.dumps(RunEnding())), RunEnding)


def test_closing_ends_the_workers_for_good(planned: Planned) -> None:
    before = workers_of(os.getpid())
    pool = WorkerPool(planned[0], ["cpu"])
    started: list[int] = []

    def close(message: Message) -> None:
        started.extend(workers_of(os.getpid()) - before)
        pool.close()

    with pytest.raises(ShardLost):
        pool.run(planned[1][4], close)
    assert len(started) == 1
    assert not is_running(started[0])
    with pytest.raises(RunEnding):
        pool.run(planned[1][4], ignore)


def test_a_worker_started_ahead_is_the_first_of_a_pool(planned: Planned) -> None:
    before = workers_of(os.getpid())
    with worker_ahead():
        wait_until(lambda: workers_of(os.getpid()) - before)
        ahead = workers_of(os.getpid()) - before
        pool = WorkerPool(planned[0], ["cpu"])
        try:
            assert pool.run(planned[1][1], ignore).done == 4
            assert workers_of(os.getpid()) - before == ahead
        finally:
            pool.close()
    assert len(ahead) == 1


def test_a_worker_started_ahead_that_nobody_needed_is_ended() -> None:
    before = workers_of(os.getpid())
    with worker_ahead():
        wait_until(lambda: workers_of(os.getpid()) - before)
        (ahead,) = workers_of(os.getpid()) - before
    assert not is_running(ahead)


PARENT = """
import sys, time
from pipeline.job import Job
from pipeline.spool import ShardRef
from pipeline.workers import WorkerPool

job = Job.model_validate_json(sys.argv[1])
key, url, size = sys.argv[2:]
ref = ShardRef(1, key, 4, url, 0, int(size))
WorkerPool(job, ["cpu"]).run(ref, lambda m: print("at work", flush=True))
print("idle", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["at work", "idle"])
def test_a_worker_ends_when_its_parent_is_killed(planned: Planned, moment: str) -> None:
    job, refs = planned
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, job.model_dump_json(),
         refs[0].key, refs[0].url, str(refs[0].size)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert parent.stdout is not None
    try:
        assert any(line.strip() == moment for line in parent.stdout)
        (worker,) = workers_of(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not is_running(worker), 5)
