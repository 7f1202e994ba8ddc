"""Jobs whose results lie together in files, and what these hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.job import Job
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import verify
from tests.pipeline.runs import changed


def manifest(job: Job, **columns: Any) -> Job:
    """The job with a manifest of the first photos."""
    count = len(next(iter(columns.values())))
    path = Path(job.source) / "m.parquet"
    uris = [f"{number:03d}.jpg" for number in range(count)]
    pq.write_table(pa.table({"uri": uris, "id": uris} | columns), path)
    return changed(job, source=str(path))


def packed_files(job: Job) -> list[str]:
    """Names of the files in which results lie."""
    return Storage().names(join(job.out, "shards"))


def assert_sound(job: Job) -> None:
    """Every result is where the ledger has it, and nothing else is there."""
    assert verify(Storage(), job.out, lambda rows: None).findings == []
