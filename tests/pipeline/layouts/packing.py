"""Jobs whose results lie together in files, and what these hold."""

from __future__ import annotations

from typing import Any

from pipeline.job import Job
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import verify
from tests.pipeline.runs import manifest


def labelled(job: Job, **columns: Any) -> Job:
    """The job with a manifest of the first photos."""
    uris = [f"{number:03d}.jpg" for number in range(len(next(iter(columns.values()))))]
    return manifest(job, uris, id=uris, **columns)


def packed_files(job: Job) -> list[str]:
    """Names of the files in which results lie."""
    return Storage().names(join(job.out, "shards"))


def assert_sound(job: Job) -> None:
    """Every result is where the ledger has it, and nothing else is there."""
    assert verify(Storage(), job.out, lambda rows: None).findings == []
