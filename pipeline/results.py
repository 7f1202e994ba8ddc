"""What became of a row, a shard, a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.text import plural

FAILURES_TOLD = 100  # in a shard's result or a summary; the ledger has them all
SLOWEST_TOLD = 5

# A run is not given up for its failed rows before this many, so that a small job with some bad
# images still does all the good ones.
MANY_FAILED = 50


@dataclass(frozen=True)
class Failure:
    """A row that could not be done, for people."""

    id: str
    source_uri: str
    error_class: str
    stage: str
    message: str


@dataclass
class ShardResult:
    """What became of a shard.

    Args:
        done, failed: rows, together all of the shard's.
        updated: of those done, earlier ones that only got other values of the manifest's own.
        seconds: how long each stage was busy, over all its threads; ``wall``: the whole.
        reasons: messages of failed rows, and how often.
        faults: error class and stage of failed rows, and how often.
        failures: the first few.
    """

    key: str
    done: int = 0
    failed: int = 0
    updated: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    output_pixels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    @property
    def wall(self) -> float:
        """Seconds that the shard took."""
        return self.seconds.get("wall", 0.0)

    @property
    def rate(self) -> float:
        """Rows a second."""
        return (self.done + self.failed) / self.wall if self.wall else 0.0

    @property
    def new_done(self) -> int:
        """Rows done that were not so before."""
        return self.done - self.updated

    def add_done(self, source_bytes: int, output_bytes: int, output_pixels: int) -> None:
        """Count a row that got done."""
        self.done += 1
        self.source_bytes += source_bytes
        self.output_bytes += output_bytes
        self.output_pixels += output_pixels

    def add_failed(self, failure: Failure) -> None:
        """Count a row that failed."""
        self.failed += 1
        self.reasons[failure.message] += 1
        self.faults[failure.error_class, failure.stage] += 1
        if len(self.failures) < FAILURES_TOLD:
            self.failures.append(failure)


@dataclass
class Summary:
    """What a run has done.

    Args:
        folder: of the results.
        rows: of the job. done, failed: of these, in this run and before; equal to ``rows`` at
            the end of a run that was not stopped.
        new_done, new_failed: in this run. updated: as in ShardResult.
        slowest: shards of this run, the one with the fewest rows a second first.
        stopped: why the run ended before its time.
    """

    out: str
    folder: str
    style: str
    rows: int
    done: int
    failed: int
    max_failed: float
    new_done: int = 0
    new_failed: int = 0
    updated: int = 0
    shards: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    output_pixels: int = 0
    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slowest: list[ShardResult] = field(default_factory=list)
    stopped: str = ""

    @classmethod
    def of(cls, job: Job, plan: Plan) -> Summary:
        """Of a run that has yet to do its first shard."""
        return cls(
            job.out, job.folder, job.style, plan.rows, plan.done, plan.failed, job.max_failed
        )

    def add(self, result: ShardResult) -> None:
        """Count a shard."""
        self.shards += 1
        self.done += result.done
        self.failed += result.failed
        self.new_done += result.new_done
        self.new_failed += result.failed
        self.updated += result.updated
        self.source_bytes += result.source_bytes
        self.output_bytes += result.output_bytes
        self.output_pixels += result.output_pixels
        self.stages.update(result.seconds)
        self.reasons.update(result.reasons)
        self.failures += result.failures[: FAILURES_TOLD - len(self.failures)]
        # Not by time: shards have not all the same size.
        by_rate = sorted([*self.slowest, result], key=lambda one: one.rate)
        self.slowest = by_rate[:SLOWEST_TOLD]

    @property
    def too_many_failed(self) -> bool:
        """Whether more rows have failed than the job allows."""
        return self.failed > self.max_failed * self.rows

    @property
    def hopeless(self) -> bool:
        """Whether so many rows of this run have failed that it should not go on."""
        return self.too_many_failed and self.new_failed >= MANY_FAILED

    @property
    def complete(self) -> bool:
        """Whether every row is accounted for."""
        return not self.stopped and self.rows == self.done + self.failed

    @property
    def succeeded(self) -> bool:
        """Whether every row is accounted for and few enough failed."""
        return self.complete and not self.too_many_failed

    @property
    def images_per_second(self) -> float:
        """Rows finished in this run, each second of it."""
        return (self.new_done + self.new_failed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        text = f"{self.done:,} of {self.rows:,} stylized"
        if 0 < self.new_done < self.done:
            text += f" ({self.new_done:,} in this run)"
        if self.failed:
            text += f", {self.failed:,} failed"
        if self.updated:
            text += f"; {plural(self.updated, 'row')} brought up to date with the manifest"
        if self.stopped:
            return f"{text}; stopped: {self.stopped}"
        if not self.complete:
            return f"{text}, {self.rows - self.done - self.failed:,} not accounted for"
        if not self.new_done + self.new_failed + self.updated:
            text += "; nothing was left to do"
        return text
