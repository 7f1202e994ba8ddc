"""Stages that overlap: work done ahead in threads, results taken in order."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

Queue = deque[tuple[T, Future[R]]]


def ahead(
    pool: ThreadPoolExecutor | None,
    call: Callable[[T], R],
    items: Iterable[T],
    depth: int,
    begun: Queue[T, R] | None = None,
) -> Iterator[R]:
    """``call`` of each item, in order, with ``depth`` of them begun besides the one that is taken.

    A chain of these is a pipeline with bounded queues: whoever takes from the end sets the
    pace, an error ends it, and the order of results never depends on which thread was faster.

    Args:
        pool: None: nothing is done ahead, but each item in the thread that takes it.
        begun: holds what is begun, for others to look at: see unfinished().
    """
    begun = deque() if begun is None else begun
    try:
        if pool is None:
            for item in items:
                begun.append((item, Future()))
                result = call(item)
                begun.popleft()
                yield result
            return
        for item in items:
            begun.append((item, pool.submit(call, item)))
            if len(begun) > depth:
                yield begun[0][1].result()
                begun.popleft()
        while begun:
            yield begun[0][1].result()
            begun.popleft()
    finally:
        for _, future in begun:
            future.cancel()


def unfinished(begun: Queue[T, R]) -> list[T]:
    """The items that wait for their call, or are in it."""
    # A copy, made without giving way to the thread that adds and takes.
    return [item for item, future in begun.copy() if not future.done()]


def chunks(
    items: Iterable[T], size: int, weigh: Callable[[T], float] = lambda _: 0, heavy: float = 1
) -> Iterator[list[T]]:
    """Lists of ``size`` items, or fewer that weigh ``heavy`` together; the last one shorter."""
    chunk: list[T] = []
    weight = 0.0
    for item in items:
        chunk.append(item)
        weight += weigh(item)
        if len(chunk) == size or weight >= heavy:
            yield chunk
            chunk, weight = [], 0.0
    if chunk:
        yield chunk


class Clock:
    """Seconds that each stage was busy, over all its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """Counts the time inside for ``stage``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    def timed(self, stage: str, call: Callable[[T], R]) -> Callable[[T], R]:
        """``call``, the time of which counts for ``stage``."""

        def run(work: T) -> R:
            with self.busy(stage):
                return call(work)

        return run
