"""What a job has no use for any more: results of photos that have gone, files of no row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.claim import Claim
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.layouts import commit_less
from pipeline.ledger import Ledger
from pipeline.manifest import open_manifest
from pipeline.output import Output
from pipeline.plan import asked_for, contains, hashes, output_names
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import unknown_files

# Files that are removed at once.
THREADS = 16


@dataclass
class Gone:
    """What was found.

    Args:
        asked_for: hashes of the names of the results that the job asks for, in order.
        rows: in the ledger, of photos that its source does not have any more. kept: all others.
        shards: whose parts have such rows.
        files: paths, below the output folder, of results of no row but these. bytes: of them.
    """

    job: Job
    asked_for: NDArray[np.int64]
    rows: int = 0
    kept: int = 0
    bytes: int = 0
    shards: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def job_rows(self) -> int:
        """Rows of the job as it is now."""
        rows = len(self.asked_for)
        return rows if self.job.limit is None else min(rows, self.job.limit * self.job.variants)

    def is_kept(self, rows: pa.Table) -> pa.Array:
        """Which rows of the ledger the job asks for."""
        ids, variants = (rows.column(name).combine_chunks() for name in ("id", "variant"))
        return pa.array(
            contains(self.asked_for, hashes(output_names(ids, variants, self.job.format)))
        )


def find_gone(storage: Storage, out: str) -> Gone:
    """Compare the folder ``out`` with the source of its job, all of it and as it is now.

    Args:
        out: in full.

    Raises:
        RequestError: there is no job, or its source cannot be read, or a part of the ledger.
        SystemFault: the storage does not answer.
    """
    job = Job.model_validate(Output(storage, out).require_job().job)
    manifest = open_manifest(storage, job.source, out=out, allow_schemes=job.allow_scheme)
    # Of a job that was tried with --limit the others are not gone.
    gone = Gone(job, asked_for(manifest, job.model_copy(update={"limit": None})))
    if not len(gone.asked_for):
        raise RequestError(f"{manifest.name} has no images; so nothing is taken for gone")
    known = [np.empty(0, np.int64)]
    for batch in Ledger(storage, out).scan(["id", "variant", "output_uri", "shard"]):
        rows = pa.Table.from_batches([batch])
        is_kept = gone.is_kept(rows)
        kept, others = rows.filter(is_kept), rows.filter(pc.invert(is_kept))
        gone.kept += len(kept)
        gone.rows += len(others)
        gone.shards += pc.unique(others["shard"]).to_pylist()
        known.append(hashes(kept["output_uri"]))
    for path, size in unknown_files(storage, out, np.sort(np.concatenate(known))):
        gone.files.append(path)
        gone.bytes += size or 0
    return gone


def prune(storage: Storage, out: str) -> Gone:
    """Remove from the folder ``out`` what find_gone() finds, and tell it.

    Raises:
        RequestError: as find_gone(), or a run works on the folder. SystemFault: the storage does
            not answer, or something cannot be removed.
    """
    claim = Claim(storage, out)
    claim.take()
    try:
        gone = find_gone(storage, out)
        # The ledger first: what it says is there, is there.
        for shard in gone.shards:
            _take_out(storage, out, shard, gone)
        with ThreadPoolExecutor(THREADS, "prune") as pool:
            list(pool.map(storage.delete, (join(out, path) for path in gone.files)))
        Output(storage, out).recount(gone.job_rows, max(0, gone.kept - gone.job_rows))
    finally:
        claim.release()
    return gone


def _take_out(storage: Storage, out: str, shard: str, gone: Gone) -> None:
    ledger = Ledger(storage, out)

    def commit(part: pa.Table) -> None:
        if len(part):
            ledger.commit(shard, part)
        else:
            storage.delete(ledger.part_url(shard))

    if (before := ledger.read_part(shard)) is not None:
        after = before.filter(gone.is_kept(before))
        commit_less(storage, out, shard, before, after, commit)
