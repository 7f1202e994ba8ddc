"""A worker process: loads the network once, and does shard after shard until its parent ends it."""

from __future__ import annotations

import logging
import logging.handlers
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pipeline.errors import RequestError, ShardLost, SystemFault
from pipeline.inhand import Board, Suspects
from pipeline.job import Job
from pipeline.output import Output
from pipeline.results import ShardResult
from pipeline.run import open_storage
from pipeline.spool import ShardRef, read_shard
from pipeline.styles.library import choose_pack, packs_at
from pipeline.url import redact

if TYPE_CHECKING:
    from pipeline.shard import ShardWorker

log = logging.getLogger(__name__)

# Seconds between two messages about progress.
PROGRESS_EVERY = 0.5


@dataclass(frozen=True)
class Progress:
    """How far a shard is.

    Args:
        done, failed: rows, so far.
        queues: images that wait for a stage or are in it. gpu_memory: bytes held on a GPU.
    """

    done: int
    failed: int
    queues: Mapping[str, int] = field(default_factory=dict)
    gpu_memory: Mapping[str, int] = field(default_factory=dict)


Message = Progress | logging.LogRecord


class _Line(logging.handlers.QueueHandler):
    """The way to the parent: answers, progress and log records, from any thread."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(queue=None)  # type: ignore[arg-type]
        self._connection = connection
        self._sending = threading.Lock()

    def enqueue(self, record: logging.LogRecord) -> None:
        record.msg = redact(record.msg)  # prepared already: all of its text
        self.send(record)

    def send(self, message: Message | ShardResult | Exception) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except BrokenPipeError:  # nobody is there to be told anything
                os._exit(1)


def serve(pipe: int, board: int) -> None:
    """Take references to shards, answer with their results.

    Args:
        pipe: descriptor of one end; the first thing that comes from it is the job and the
            number of threads, all others are references with the shard's suspects.
        board: descriptor of the parent's Board.
    """
    connection = Connection(pipe)
    in_hand = Board(board)
    line = _Line(connection)
    logging.getLogger().addHandler(line)
    log.setLevel(logging.INFO)
    with suppress(Exception):  # that takes seconds; what is wrong with it is told with a shard
        import pipeline.shard  # noqa: F401
    job, threads = connection.recv()
    worker: ShardWorker | None = None
    while True:
        try:
            ref, suspects = connection.recv()
        except EOFError:
            return
        try:
            worker = worker or _make_worker(job, threads, in_hand)
            line.send(_do(worker, ref, suspects, line))
        except (SystemFault, RequestError) as fault:
            line.send(SystemFault(str(fault)))
        except Exception:  # the parent decides whether it is tried again
            line.send(ShardLost(f"shard {ref.number}: {redact(traceback.format_exc())}"))


def _make_worker(job: Job, threads: int, board: Board) -> ShardWorker:
    from pipeline.shard import ShardWorker

    storage = open_storage(job)
    pack = choose_pack(packs_at(job.pack, storage), job.style)
    if Output(storage, job.out).require_job().job_digest != job.digest(pack.digest):
        raise SystemFault(
            f"the style '{job.style}' is not what it was when this run began: its pack is another "
            f"one on {socket.gethostname()}, or was replaced meanwhile"
        )
    return ShardWorker(job, pack, storage, threads, board)


def _do(worker: ShardWorker, ref: ShardRef, suspects: Suspects, line: _Line) -> ShardResult:
    done = failed = 0
    told = 0.0

    def on_progress(more_done: int, more_failed: int) -> None:
        nonlocal done, failed, told
        done, failed = done + more_done, failed + more_failed
        if time.monotonic() - told > PROGRESS_EVERY:
            told = time.monotonic()
            line.send(Progress(done, failed, dict(queues), worker.gpu_memory()))

    rows = read_shard(worker.storage, ref)
    with _looked_at(worker) as queues:
        result = worker.run(ref.key, rows, on_progress, suspects, ref.claim)
    busy = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    log.info("%d done, %d failed; busy: %s", result.done, result.failed, busy)
    return result


@contextmanager
def _looked_at(worker: ShardWorker) -> Iterator[dict[str, int]]:
    """The worker's queues, as they were a moment ago.

    Looked at in a thread of its own: at the moments when progress is told, results have just been
    put, and queues look all alike.
    """
    queues: dict[str, int] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(PROGRESS_EVERY):
            queues.update(worker.queues())

    threading.Thread(target=look, daemon=True).start()
    try:
        yield queues
    finally:
        ended.set()
