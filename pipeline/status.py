"""How far a job is, from its output folder alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.claim import who_works_on
from pipeline.ledger import Ledger
from pipeline.output import JobRecord, Output
from pipeline.storage import Storage

# Seconds without a finished row that separate one run from the next, where nothing else tells.
PAUSE = 600

# Seconds over which the present speed is measured.
WINDOW = 60


@dataclass
class Status:
    """Figures of a job.

    Args:
        job: what job.json says; all that follows is of its settings.
        done, failed: rows in the ledger.
        succeeded: whether the last run has ended, and well.
        at_work: which run is at work, for a person, or nothing.
        per_second: rows finished in each second since the epoch in which there were any.
    """

    job: JobRecord
    done: int = 0
    failed: int = 0
    output_bytes: int = 0
    styles: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    per_second: Counter[int] = field(default_factory=Counter)
    succeeded: bool = False
    at_work: str = ""

    def last_run(self) -> dict[int, int]:
        """Rows finished in each second of the last run that finished any, seconds in order."""
        seconds = sorted(self.per_second)
        if seconds and seconds[-1] >= self.job.began > 0:
            return {one: self.per_second[one] for one in seconds if one >= self.job.began}
        first = len(seconds) - 1
        while first > 0 and seconds[first] - seconds[first - 1] < PAUSE:
            first -= 1
        return {second: self.per_second[second] for second in seconds[max(first, 0) :]}

    @property
    def rate(self) -> float:
        """Rows a second at the end of the last run."""
        run = self.last_run()
        if not run:
            return 0.0
        end = max(run)
        recent = {second: n for second, n in run.items() if second > end - WINDOW}
        return sum(recent.values()) / (end - min(recent) + 1)

    @property
    def last(self) -> str:
        """When the last row was finished (UTC), or nothing."""
        if not self.per_second:
            return ""
        return _utc(max(self.per_second))

    @property
    def began(self) -> str:
        """When the last run began (UTC), whatever came of it; or nothing."""
        return _utc(self.job.began) if self.job.began else ""

    @property
    def left(self) -> int:
        """Rows that the ledger does not have yet."""
        return max(0, self.job.ledger_rows - self.done - self.failed)


def read_status(storage: Storage, out: str) -> Status:
    """The status of the job in the folder ``out``, while it runs or after.

    Raises:
        RequestError: there is no job, or its ledger cannot be read.
    """
    output = Output(storage, out)
    job = output.require_job()
    status = Status(job, succeeded=output.succeeded(), at_work=who_works_on(storage, out))
    columns = ["status", "error_message", "style", "output_bytes", "finished_at"]
    for batch in Ledger(storage, out).scan_job(job.job_digest, columns):
        done = pc.equal(batch.column("status"), "done")
        count = pc.sum(done).as_py() or 0
        status.done += count
        status.failed += len(batch) - count
        status.output_bytes += pc.sum(batch.column("output_bytes")).as_py() or 0
        status.styles += _counts(batch.filter(done).column("style"))
        failed = batch.filter(pc.invert(done))
        status.reasons += _counts(failed.column("error_message"))
        seconds = np.asarray(batch.column("finished_at").cast("int64")) // 1_000_000
        status.per_second.update(dict(zip(*np.unique(seconds, return_counts=True), strict=True)))
    return status


def _utc(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _counts(column: Any) -> Counter[str]:
    return Counter({item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()})
