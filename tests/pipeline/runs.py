"""Whole jobs in this process: as a run does them, without the worker processes."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.job import Job
from pipeline.ledger import Ledger
from pipeline.manifest import open_manifest
from pipeline.results import Summary
from pipeline.run import Request, begin, end, prepare
from pipeline.spool import ShardRef, read_shard
from pipeline.storage import Storage

# Columns in which two ledgers of one job may differ.
TIMES = ["finished_at", "attempts"]


def changed(job: Job, **settings: Any) -> Job:
    """The job with other settings."""
    return Job.model_validate({**job.model_dump(), **settings})


def manifest(job: Job, uris: Sequence[str], **columns: Any) -> Job:
    """The job with a manifest beside its photos."""
    path = Path(job.source) / "m.parquet"
    pq.write_table(pa.table({"uri": list(uris), **columns}), path)
    return changed(job, source=str(path))


def read_rows(source: str | Path, **options: Any) -> pa.Table:
    """All rows of a manifest."""
    opened = open_manifest(Storage(), str(source), **options)
    return pa.Table.from_batches(opened.read(), opened.schema)


def run_job(job: Job) -> Summary:
    """Plan a job, do its shards one after the other, finish it."""
    import torch

    from pipeline.shard import ShardWorker

    torch.set_num_threads(1)
    start = time.monotonic()
    request = prepare(job)
    plan, refs = begin(request)
    try:
        summary = Summary.of(request.job, plan)
        worker = ShardWorker(request.job, request.pack, request.storage)
        for ref in refs:
            rows = read_shard(request.storage, ref)
            summary.add(worker.run(ref.key, rows, lambda done, failed: None))
        summary.seconds = time.monotonic() - start
        end(request, summary)
    finally:
        request.claim.release()
    return summary


def plan_job(job: Job) -> tuple[Request, list[ShardRef]]:
    """A job that has been planned, as if its run had ended there."""
    request = prepare(job)
    _, refs = begin(request)
    request.claim.release()
    return request, [replace(ref, claim="") for ref in refs]


def ledger_of(out: str | Path) -> pa.Table:
    """The ledger, by id and variant."""
    parts = [part for group in Ledger(Storage(), str(out)).read_parts() for _, part in group]
    table = pa.concat_tables(parts, promote_options="default")
    return table.sort_by([("id", "ascending"), ("variant", "ascending")])


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar with ``members``, name to content, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def committed(out: Path) -> int:
    """How many shards of a run on disk are in its ledger."""
    return len(list((out / "metadata").glob("*.parquet"))) if out.exists() else 0
