"""Planned shards on disk, so that a task is told which rows to do and not given them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RowError, SystemFault
from pipeline.overlap import chunks
from pipeline.plan import Shard
from pipeline.storage import Source, Storage
from pipeline.url import describe, join, redact_url

# Few enough that a file stays small in memory, many enough that there are few files.
SHARDS_PER_FILE = 64

# Read once and deleted: what takes the writer least time.
QUICK = {"compression": "lz4", "use_dictionary": False, "write_statistics": False}


@dataclass(frozen=True, slots=True)
class ShardRef:
    """Where a planned shard's rows are.

    Args:
        number: its place in the plan, from 1, for people.
        key: its identity.
        rows: how many.
        url, offset, size: the file, and where in it the shard's own Parquet file lies, so that
            one request has it and nothing else.
        claim: token of the claim of the run that has planned it; empty: it has none.
    """

    number: int
    key: str
    rows: int
    url: str
    offset: int
    size: int
    claim: str = ""


def write_plan(
    storage: Storage, folder: str, shards: Iterable[Shard], claim: str = ""
) -> list[ShardRef]:
    """Write shards to files below ``folder``; a reference to each, in order.

    Args:
        claim: as in ShardRef.
    """
    refs: list[ShardRef] = []
    for file, batch in enumerate(chunks(shards, SHARDS_PER_FILE)):
        url = join(folder, f"{file:06d}.shards")
        buffer = io.BytesIO()
        for shard in batch:
            data = _file_of(shard.rows)
            number, place = len(refs) + 1, (url, buffer.tell(), len(data))
            refs.append(ShardRef(number, shard.key, len(shard.rows), *place, claim))
            buffer.write(data)
        storage.write({url: buffer.getvalue()})
    return refs


def _file_of(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=len(rows), **QUICK)
    return sink.getvalue()


def read_shard(storage: Storage, ref: ShardRef) -> pa.Table:
    """The rows of a planned shard.

    Raises:
        SystemFault: the plan is gone or cannot be read.
    """
    (data,) = storage.read([Source(ref.url, ref.offset, ref.size)])
    try:
        if isinstance(data, RowError):
            raise data
        return pq.ParquetFile(pa.BufferReader(data)).read()
    except (RowError, OSError, pa.ArrowException) as error:
        raise SystemFault(
            f"cannot read the plan {redact_url(ref.url)}: {describe(error)}"
        ) from error
