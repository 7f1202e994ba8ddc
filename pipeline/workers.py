"""Worker processes on this machine: each loads the network once and does shard after shard.

Processes, because Python threads share one interpreter; our own and not a pool of the standard
library's, because one killed process ends a whole concurrent.futures pool.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import glob
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pipeline.errors import RequestError, SystemFault
from pipeline.job import Job
from pipeline.results import ShardResult
from pipeline.run import open_storage
from pipeline.spool import ShardRef, read_shard
from pipeline.styles.pack import find_pack

if TYPE_CHECKING:
    from pipeline.shard import ShardWorker

log = logging.getLogger(__name__)

# Seconds without a finished row after which a worker counts as hanging.
STALLED = 900

# Seconds between a worker's looks at whether its parent still lives.
PARENT_CHECK = 1.0

# Seconds between two messages of a worker about its progress.
PROGRESS_EVERY = 0.5


class ShardLost(RuntimeError):
    """A shard was not finished, for a reason that may pass: it can be done again."""


@dataclass(frozen=True)
class Progress:
    """Rows of a shard that are done, and that failed, so far."""

    done: int
    failed: int


Message = Progress | logging.LogRecord


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def devices_for(job: Job, shards: int) -> list[str]:
    """The device of each worker: one worker a GPU, or a core; no more than there are shards."""
    gpus = [] if job.device == "cpu" else sorted(glob("/dev/nvidia[0-9]*"))
    if job.device.startswith("cuda:"):
        names = [job.device]
    elif gpus:
        names = [f"cuda:{index}" for index in range(len(gpus))]
    else:
        names = [job.device] * (cpu_count() if job.workers == "auto" else 1)
    workers = len(names) if job.workers == "auto" else job.workers
    return [names[index % len(names)] for index in range(max(1, min(workers, shards)))]


class WorkerPool:
    """Worker processes, started as they are needed and replaced when they die.

    Args:
        job: with its places in full.
        devices: one for each worker, as Settings.device.
    """

    def __init__(self, job: Job, devices: Sequence[str]) -> None:
        self.workers = len(devices)
        # One thread each if all cores have a worker: threads that wait for each other are slow.
        self._threads = max(1, cpu_count() // len(devices))
        self._free: queue.LifoQueue[tuple[Job, _Process | None]] = queue.LifoQueue()
        for device in devices:
            self._free.put((job.model_copy(update={"device": device}), None))
        self._alive: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, ref: ShardRef, on_message: Callable[[Message], None]) -> ShardResult:
        """Do a shard in a free worker, and wait for it.

        Args:
            on_message: is given the worker's progress and log records, in this thread.

        Raises:
            ShardLost: it was not finished; a process that died or hung is replaced.
            SystemFault: something that every shard needs is broken.
        """
        job, process = self._free.get()
        try:
            if process is None or not process.is_alive():
                process = self._start(job)
            return process.run(ref, on_message)
        finally:
            self._free.put((job, process))

    def close(self) -> None:
        """End all processes; what they had not committed is dropped."""
        with self._lock:
            self._closed = True
            alive, self._alive = self._alive, set()
        for process in alive:
            process.kill()

    def _start(self, job: Job) -> _Process:
        with self._lock:
            if self._closed:
                raise ShardLost("the run is ending")
            process = _Process(job, self._threads)
            self._alive.add(process)
            return process


class _Process:
    """The parent's end of a worker process."""

    def __init__(self, job: Job, threads: int) -> None:
        # spawn: a forked child would inherit threads, locks and S3 clients that do not survive it.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, job, threads, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def run(self, ref: ShardRef, on_message: Callable[[Message], None]) -> ShardResult:
        try:
            self._connection.send(ref)
            while self._connection.poll(STALLED):
                message = self._connection.recv()
                if isinstance(message, ShardResult):
                    return message
                if isinstance(message, Exception):
                    raise message
                on_message(message)
        except (EOFError, OSError):
            self._process.join(5)
            raise ShardLost(
                f"worker {self._process.pid} ended while it did shard {ref.number} "
                f"(exit code {self._process.exitcode}; -9 is a kill, often for want of memory)"
            ) from None
        self.kill()
        raise ShardLost(
            f"worker {self._process.pid} finished no row of shard {ref.number} in {STALLED} s; "
            "it was killed"
        )


class _Line(logging.handlers.QueueHandler):
    """The worker's end: answers, progress and log records, from any thread."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(queue=None)  # type: ignore[arg-type]
        self._connection = connection
        self._sending = threading.Lock()

    def enqueue(self, record: logging.LogRecord) -> None:
        self.send(record)

    def send(self, message: Message | ShardResult | Exception) -> None:
        with self._sending:
            self._connection.send(message)


def _serve(connection: Connection, job: Job, threads: int, parent: int) -> None:
    """A worker process: takes references to shards, answers with their results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    line = _Line(connection)
    logging.getLogger().addHandler(line)
    log.setLevel(logging.INFO)
    worker: ShardWorker | None = None
    while True:
        try:
            ref = connection.recv()
        except EOFError:
            return
        try:
            worker = worker or _make_worker(job, threads)
            line.send(_do(worker, ref, line))
        except (SystemFault, RequestError) as fault:
            line.send(SystemFault(str(fault)))
        except Exception:  # the parent decides whether it is tried again
            line.send(ShardLost(f"shard {ref.number}: {traceback.format_exc()}"))


def _end_with(parent: int) -> None:
    """End this process when ``parent`` has gone, however that went."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK)
    os._exit(1)


def _make_worker(job: Job, threads: int) -> ShardWorker:
    import torch

    from pipeline.shard import ShardWorker

    torch.set_num_threads(threads)
    return ShardWorker(job, find_pack(job.pack), open_storage(job), threads)


def _do(worker: ShardWorker, ref: ShardRef, line: _Line) -> ShardResult:
    done = failed = 0
    told = time.monotonic()

    def on_progress(more_done: int, more_failed: int) -> None:
        nonlocal done, failed, told
        done, failed = done + more_done, failed + more_failed
        if time.monotonic() - told > PROGRESS_EVERY:
            told = time.monotonic()
            line.send(Progress(done, failed))

    rows = read_shard(worker.storage, ref)
    result = worker.run(ref.key, rows, on_progress)
    busy = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    log.info("%d done, %d failed; busy: %s", result.done, result.failed, busy)
    return result
