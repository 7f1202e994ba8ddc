"""Manifests that are tables: Parquet, CSV, JSON lines, lists of paths."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

BATCH_ROWS = 65_536
BLOCK_BYTES = 16 << 20

# A table's schema, and its batches, read as they are asked for.
Table = tuple[pa.Schema, Iterator[pa.RecordBatch]]


def read_parquet(file: IO[bytes]) -> Table:
    """A Parquet file, a few row groups at a time."""
    parquet = pq.ParquetFile(file)
    return parquet.schema_arrow, parquet.iter_batches(BATCH_ROWS)


def read_csv(file: IO[bytes]) -> Table:
    """A CSV file with a header; types are those of its first 16 MiB."""
    reader = pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        # 007 is a name, and so is 2024-05-01.
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in ("uri", "id", "style")}
        ),
    )
    for field in reader.schema:
        if pa.types.is_binary(field.type):  # what it takes for that no CSV can have
            raise pa.ArrowInvalid(f"column '{field.name}' is not UTF-8; save it as that")
    return reader.schema, iter(reader)


def read_jsonl(file: IO[bytes]) -> Table:
    """JSON objects, one a line; types are those of the first 16 MiB."""
    options = pyarrow.json.ReadOptions(block_size=BLOCK_BYTES)
    inferred = pyarrow.json.open_json(file, read_options=options).schema
    # What looks like a time was written as a string: JSON has no times.
    schema = [
        field.with_type(pa.string()) if pa.types.is_timestamp(field.type) else field
        for field in inferred
    ]
    file.seek(0)
    reader = pyarrow.json.open_json(
        file,
        read_options=options,
        parse_options=pyarrow.json.ParseOptions(explicit_schema=pa.schema(schema)),
    )
    return reader.schema, iter(reader)


def read_txt(file: IO[bytes]) -> Table:
    """Paths or URLs, one a line; blank lines do not count."""
    schema = pa.schema([pa.field("uri", pa.string())])
    return schema, _lines(file, schema)


def _lines(file: IO[bytes], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    lines = filter(None, (line.removeprefix(BOM_UTF8).decode().strip() for line in file))
    while batch := list(islice(lines, BATCH_ROWS)):
        yield pa.RecordBatch.from_arrays([pa.array(batch, pa.string())], schema=schema)


READERS: dict[str, Callable[[Any], Table]] = {
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".txt": read_txt,
}
