"""How far a run is, counted in images, while its shards are under way."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from pipeline.plan import Plan
from pipeline.results import ShardResult
from pipeline.text import span
from pipeline.worker import Progress


@dataclass(frozen=True)
class Snapshot:
    """A moment of a run.

    Args:
        rows: of the job. done, failed: of these, in this run and before.
        rate: images a second in this run. remaining: seconds, at that rate; None: not known yet.
        queues, gpu_memory: as in Progress, of all workers.
    """

    rows: int
    done: int
    failed: int
    rate: float
    remaining: float | None
    queues: Mapping[str, int] = field(default_factory=dict)
    gpu_memory: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        finished = self.done + self.failed
        text = f"{finished:,} of {self.rows:,} images"
        if self.failed:
            text += f", {self.failed:,} failed"
        if self.rate:
            text += f", {self.rate:,.0f} images/s"
        if self.remaining and finished < self.rows:
            text += f", {span(self.remaining)} left"
        return text

    @property
    def percent(self) -> float:
        """Of the rows, 0 to 100."""
        return 100.0 * (self.done + self.failed) / self.rows if self.rows else 100.0


class Tracker:
    """Adds up what the workers tell. What a shard told before it was lost does not count."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._done = self._failed = 0
        self._under_way: dict[str, Progress] = {}
        # What has come down to nothing stays in these, as 0.
        self._queues: Counter[str] = Counter()
        self._gpu_memory: Counter[str] = Counter()
        self._started: float | None = None

    def update(self, key: str, progress: Progress) -> None:
        """A shard under way has come so far."""
        with self._lock:
            # The clock starts with the first worker that is ready: its start is not throughput.
            self._started = self._started or time.monotonic()
            self._replace(key, progress)

    def finish(self, result: ShardResult) -> None:
        """A shard is committed."""
        self.update(result.key, Progress(result.done, result.failed))
        with self._lock:
            del self._under_way[result.key]

    def lose(self, key: str) -> None:
        """A shard was not finished."""
        with self._lock:
            self._replace(key, Progress(0, 0))
            del self._under_way[key]

    def _replace(self, key: str, progress: Progress) -> None:
        before = self._under_way.get(key, Progress(0, 0))
        self._under_way[key] = progress
        self._done += progress.done - before.done
        self._failed += progress.failed - before.failed
        self._queues.update(progress.queues)
        self._queues.subtract(before.queues)
        self._gpu_memory.update(progress.gpu_memory)
        self._gpu_memory.subtract(before.gpu_memory)

    @property
    def seconds(self) -> float:
        """Since the first worker was ready."""
        return time.monotonic() - self._started if self._started else 0.0

    def snapshot(self) -> Snapshot:
        """How far the run is now."""
        with self._lock:
            done, failed = self._done, self._failed
            queues, gpu_memory = dict(self._queues), dict(self._gpu_memory)
        seconds = self.seconds
        rate = (done + failed) / seconds if seconds > 0.5 else 0.0
        left = self._plan.left - done - failed
        return Snapshot(
            self._plan.rows,
            self._plan.done + done,
            self._plan.failed + failed,
            rate,
            left / rate if rate else None,
            queues,
            gpu_memory,
        )


def _ignore(snapshot: Snapshot) -> None: ...


# Whoever started the flow in this process and wants to watch it (the terminal).
watcher: ContextVar[Callable[[Snapshot], None]] = ContextVar("watcher", default=_ignore)
