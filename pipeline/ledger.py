"""The ledger: what has been done, one Parquet part for each shard. A part is its commit."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import RequestError, SystemFault
from pipeline.overlap import ahead, chunks
from pipeline.storage import ABSENT, Source, Storage
from pipeline.url import describe, join, redact_url

# Parts that are fetched together, and how many such groups at a time.
GROUP, GROUPS_AHEAD = 32, 4

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # done, failed
        pa.field("error_class", pa.string()),  # input, storage, resource
        pa.field("error_stage", pa.string()),  # fetch, decode, stylize, encode, put, verify
        pa.field("error_message", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_size", pa.int64()),
        pa.field("source_etag", pa.string()),
        pa.field("source_sha256", pa.string()),
        pa.field("source_format", pa.string()),
        pa.field("source_width", pa.int32()),
        pa.field("source_height", pa.int32()),
        pa.field("output_uri", pa.string()),  # relative to the output folder
        pa.field("output_offset", pa.int64()),  # where it begins in a tar or table
        pa.field("output_bytes", pa.int64()),
        pa.field("output_sha256", pa.string()),
        pa.field("output_width", pa.int32()),
        pa.field("output_height", pa.int32()),
        pa.field("style", pa.string(), nullable=False),
        pa.field("strength", pa.float64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("job_digest", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

NONE = pa.schema([])

# Names that a manifest's own columns must not have; the last two are used on the way here.
RESERVED = frozenset([*LEDGER_SCHEMA.names, "_source_offset", "_output_name"])


class DamagedPart(SystemFault):
    """A part that is there and can be fetched, but is no ledger part."""


class Ledger:
    """The Parquet parts under OUT/metadata.

    Args:
        out: URL of the output folder.
    """

    def __init__(self, storage: Storage, out: str) -> None:
        self._storage = storage
        self.folder = join(out, "metadata")

    def part_url(self, shard: str) -> str:
        """Where the part of a shard is, or would be."""
        return join(self.folder, f"{shard}.parquet")

    def read_part(self, shard: str, own: pa.Schema = NONE) -> pa.Table | None:
        """What is committed of a shard, or None.

        Args:
            own: as in read_parts().

        Raises:
            DamagedPart: it is not whole. SystemFault: it cannot be fetched.
        """
        url = self.part_url(shard)
        data = self._storage.read_one(url)
        return None if data is None else _parsed(url, data, own=own)

    def read_parts(
        self,
        columns: Sequence[str] | None = None,
        shards: Sequence[str] | None = None,
        own: pa.Schema = NONE,
    ) -> Iterator[list[tuple[str, pa.Table | DamagedPart]]]:
        """Groups of parts, each with its shard, many fetched at a time.

        Args:
            columns: all, if not given. shards: all that have a part, if not given.
            own: besides, columns of the manifest's own, of these types; null in parts that do not
                have them.

        Parts that have been removed meanwhile are left out.

        Raises:
            SystemFault: one cannot be fetched.
        """
        shards = self.shards() if shards is None else shards
        read = partial(self._read_group, columns, own)
        with ThreadPoolExecutor(GROUPS_AHEAD, "ledger") as pool:
            yield from ahead(pool, read, chunks(shards, GROUP), GROUPS_AHEAD)

    def _read_group(
        self, columns: Sequence[str] | None, own: pa.Schema, shards: list[str]
    ) -> list[tuple[str, pa.Table | DamagedPart]]:
        urls = [self.part_url(shard) for shard in shards]
        parts: list[tuple[str, pa.Table | DamagedPart]] = []
        for shard, url, data in zip(
            shards, urls, self._storage.read([Source(url) for url in urls]), strict=True
        ):
            if isinstance(data, bytes):
                try:
                    parts.append((shard, _parsed(url, data, columns, own)))
                except DamagedPart as error:
                    parts.append((shard, error))
            elif data.message != ABSENT:
                raise SystemFault(f"{redact_url(url)}: {data.message}")
        return parts

    def commit(self, shard: str, rows: pa.Table) -> None:
        """Record ``rows`` as all there is to say of a shard, in one atomic step.

        Their results have to be written already: they outlast a power cut if this does.
        """
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        self._storage.write_last(self.part_url(shard), buffer.getvalue())

    def shards(self) -> list[str]:
        """Keys of the shards that have a part."""
        names = self._storage.names(self.folder)
        return [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]

    def scan(
        self,
        columns: Sequence[str],
        shards: Sequence[str] | None = None,
        own: pa.Schema = NONE,
    ) -> Iterator[pa.RecordBatch]:
        """``columns`` of all rows, or those of some shards, a batch at a time.

        Args:
            own: as in read_parts().

        Not by way of a pyarrow.dataset, which keeps 70 KB of each part that it has read, and waits
        for several answers for each.

        Raises:
            RequestError: a part is not readable. SystemFault: one cannot be fetched.
        """
        for group in self.read_parts(columns, shards, own):
            tables = []
            for _, part in group:
                if isinstance(part, DamagedPart):
                    raise RequestError(str(part)) from part
                tables.append(part)
            if tables:
                together = pa.concat_tables(tables, promote_options="default")
                yield from together.combine_chunks().to_batches()

    def scan_job(
        self, digest: str, columns: Sequence[str], shards: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """As scan(), of the rows of one job; others are of earlier settings, not done again yet."""
        for rows in self.scan([*columns, "job_digest"], shards):
            yield rows.filter(pc.equal(rows.column("job_digest"), digest)).select(columns)


def _parsed(
    url: str, data: bytes, columns: Sequence[str] | None = None, own: pa.Schema = NONE
) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        part = file.read(None if columns is None else [*columns, *own.names])
        wanted = [f for f in LEDGER_SCHEMA if columns is None or f.name in columns]
        for field in [*wanted, *own]:
            if field.nullable and field.name not in part.column_names:  # older than the column
                part = part.append_column(field, pa.nulls(len(part), field.type))
        for field in own:
            index = part.schema.get_field_index(field.name)
            if part.schema.field(index).type != field.type:  # as earlier versions carried it
                part = part.set_column(index, field, part[index].cast(field.type))
        return part if columns is None else part.select([*columns, *own.names])
    except (pa.ArrowException, OSError, KeyError) as error:
        out = redact_url(url).rpartition("/metadata/")[0]
        raise DamagedPart(
            f"{redact_url(url)} cannot be read: {describe(error)}; restyle verify {out} --repair "
            "does its rows again"
        ) from error


def recorded_uris(urls: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """``source_uri`` as the ledger has it: redact_url() of each of many URLs."""
    # Most have nothing to be cut, and need not come to Python one by one.
    if not pc.any(pc.match_substring_regex(urls, "[@?]|AKIA|ASIA")).as_py():
        return urls
    return pa.array(map(redact_url, urls.to_pylist()), pa.string())


def result_source(out: str, row: Mapping[str, Any]) -> Source:
    """Where the result of a ledger row that is done lies."""
    url = join(out, row["output_uri"])
    offset = row["output_offset"]
    return Source(url) if offset is None else Source(url, offset, row["output_bytes"])


def carried_columns(rows: pa.Table) -> list[str]:
    """Names of the manifest's own columns, of rows as plan.Shard or the ledger has them."""
    return [name for name in rows.column_names if name not in RESERVED]


def row_keys(rows: pa.Table) -> list[tuple[str, int]]:
    """What tells rows apart: id and variant of each."""
    return list(zip(rows["id"].to_pylist(), rows["variant"].to_pylist(), strict=True))


def now() -> int:
    """Microseconds since the epoch, for ``finished_at``."""
    return time.time_ns() // 1000
