"""Worker processes on this machine, started as they are needed and replaced when they die.

Processes, because Python threads share one interpreter; our own and not a pool of the standard
library's, because one killed process ends a whole concurrent.futures pool, and because a child of
multiprocessing runs the user's main module again.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe

from pipeline.child import start_child
from pipeline.devices import cpu_count
from pipeline.errors import ShardLost
from pipeline.inhand import NOBODY, Board, Suspects
from pipeline.job import Job
from pipeline.results import ShardResult
from pipeline.spool import ShardRef
from pipeline.worker import Message

# Seconds without a finished row, or strip of a large one, after which a worker counts as hanging.
STALLED = 900
SOME_TIME = 60  # more than an image may take

# Rows of one shard that are put aside for the death of workers; with more of them it is not the
# rows, but something that every worker dies of.
CRASHERS = 16

# Seconds between two looks at a worker that says nothing.
LOOK_EVERY = 1.0

# The network is called from several threads instead, see Stylizer.threads. Besides, torch's own
# wait for each other by spinning: with another process on one of two cores that was measured to
# make a batch 30 times slower. One arena for all threads: what one has freed another can have; a
# large image took a quarter less memory, at no cost in time. And freed memory is kept for the next
# batch: to have it back from the kernel page by page took a fifth of the network's time. oneDNN
# keeps code for 1,024 shapes by itself: photos of all sizes were as fast with 256, and a worker
# grew by a tenth less in bfloat16.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that every glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
}


# Started before there was a pool.
_AHEAD: list[_Process] = []


class RunEnding(ShardLost):
    """A shard that was not begun, or not finished, as the run ends."""

    def __init__(self, message: str = "the run is ending") -> None:
        super().__init__(message)


class WorkerDied(ShardLost):
    """A worker process ended in the midst of a shard.

    Args:
        in_hand: rows, by their number in the shard, that it was at. was_late: it was killed
            because it was at one of them for too long.
    """

    def __init__(self, message: str, in_hand: frozenset[int], was_late: bool = False) -> None:
        super().__init__(message)
        self.in_hand, self.was_late = in_hand, was_late


@contextmanager
def worker_ahead() -> Iterator[None]:
    """Inside, a worker process starts, and the first pool that needs one has it.

    It takes seconds to import what it needs; a run that waits for other things begins sooner.
    """
    process = _Process()
    _AHEAD.append(process)
    try:
        yield
    finally:
        if process in _AHEAD:
            _AHEAD.remove(process)
            process.kill()


class WorkerPool:
    """Worker processes, started as they are needed and replaced when they die.

    Args:
        job: with its places in full.
        devices: one for each worker, as Settings.device.
        threads: of each worker; all share this machine's cores unless it is given.
    """

    def __init__(self, job: Job, devices: Sequence[str], threads: int | None = None) -> None:
        self.workers = len(devices)
        self._threads = threads or max(1, round(cpu_count() / len(devices)))
        self._free: queue.LifoQueue[tuple[Job, _Process | None]] = queue.LifoQueue()
        for device in devices:
            self._free.put((job.model_copy(update={"device": device}), None))
        self._alive: set[_Process] = set()
        self._suspects: dict[str, Suspects] = {}
        self._lock = threading.Lock()
        self._ending = False

    def run(self, ref: ShardRef, on_message: Callable[[Message], None]) -> ShardResult:
        """Do a shard in a free worker, and wait for it.

        Args:
            on_message: is given the worker's progress and log records, in this thread.

        Raises:
            ShardLost: it was not finished. A process that died or hung is replaced, and what it
                had in hand is done with care by the next; until that tells no more.
            SystemFault: something that every shard needs is broken.
        """
        job, process = self._free.get()
        try:
            if self._ending:
                raise RunEnding()
            while True:
                if process is None or not process.is_alive():
                    process = self._start(job, process)
                known = self._suspects.get(ref.key, NOBODY)
                try:
                    return process.run(ref, known, on_message)
                except WorkerDied as death:
                    if self._ending:
                        raise RunEnding() from None
                    late = f"decoding takes longer than {job.max_seconds:g} s (--max-seconds)"
                    suspects = known.after_death(death.in_hand, late if death.was_late else "")
                    self._suspects[ref.key] = suspects
                    if suspects == known or (len(suspects.lost) > CRASHERS and not death.was_late):
                        raise
                    on_message(_warning(str(death)))
        finally:
            self._free.put((job, process))

    def end(self) -> None:
        """Begin no shard any more; those under way go on."""
        self._ending = True

    def close(self) -> None:
        """End all processes; what they had not committed is dropped."""
        with self._lock:
            self._ending = True
            alive, self._alive = self._alive, set()
        for process in alive:
            process.kill()

    def _start(self, job: Job, dead: _Process | None) -> _Process:
        with self._lock:
            if self._ending:
                raise RunEnding()
            if dead:
                self._alive.discard(dead)
                dead.close()
            process = _AHEAD.pop() if _AHEAD else _Process()
            self._alive.add(process)
            process.prepare(job, self._threads)
            return process


def _warning(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"levelno": logging.WARNING, "msg": text})


class _Process:
    """The parent's end of a worker process."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self._board = Board()
        descriptors = (theirs.fileno(), self._board.descriptor)
        self._child = start_child(
            f"from pipeline.worker import serve; serve{descriptors}",
            pass_fds=descriptors,
            env=os.environ | WORKER_ENVIRONMENT,
        )
        theirs.close()
        self._board.close()

    def prepare(self, job: Job, threads: int) -> None:
        self._stalled = max(STALLED, job.max_seconds + SOME_TIME)
        with suppress(BrokenPipeError):  # it has died, which run() will find
            self._connection.send((job, threads))

    def is_alive(self) -> bool:
        return self._child.poll() is None

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def close(self) -> None:
        """Give back what a process that has ended leaves here."""
        self._connection.close()

    def run(
        self, ref: ShardRef, suspects: Suspects, on_message: Callable[[Message], None]
    ) -> ShardResult:
        try:
            self._connection.send((ref, suspects))
            heard, beats = time.monotonic(), self._board.beats()
            while time.monotonic() - heard < self._stalled:
                if self._board.is_overdue():
                    self.kill()
                    raise WorkerDied(
                        f"worker {self._child.pid} took too long for an image of shard "
                        f"{ref.number}; it was killed",
                        self._board.rows(),
                        was_late=True,
                    )
                if self._board.beats() != beats:
                    heard, beats = time.monotonic(), self._board.beats()
                if not self._connection.poll(LOOK_EVERY):
                    continue
                heard = time.monotonic()
                message = self._connection.recv()
                if isinstance(message, ShardResult):
                    return message
                if isinstance(message, Exception):
                    if isinstance(message, ShardLost):
                        self.kill()  # what nobody foresaw, such as a lost GPU, may be with it still
                    raise message
                on_message(message)
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
            raise WorkerDied(
                f"worker {self._child.pid} ended while it did shard {ref.number} "
                f"(exit code {self._child.returncode}; -9 is a kill, often for want of memory)",
                self._board.rows(),
            ) from None
        self.kill()
        raise WorkerDied(
            f"worker {self._child.pid} finished no row of shard {ref.number} in "
            f"{self._stalled:g} s; it was killed",
            self._board.rows(),
        )
