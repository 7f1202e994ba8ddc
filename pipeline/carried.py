"""The manifest's own columns, of whatever types: what they say by now of rows that are done."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
from numpy.typing import NDArray

from pipeline.ledger import carried_columns, row_keys

Bits = NDArray[np.uint64]

OF_BYTES = (kinds.is_string, kinds.is_large_string, kinds.is_binary, kinds.is_large_binary)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def up_to_date(part: pa.Table, rows: pa.Table) -> tuple[pa.Table, int]:
    """A shard's ledger rows with the manifest's own columns as ``rows`` has them by now.

    Args:
        part: ledger rows, read with these columns. rows: of the same shard, as plan.Shard has them;
            what is not among these stays as it is.

    Returns:
        ``part``, and how many of its rows said something else.
    """
    own = rows.select(carried_columns(rows))
    if not own.column_names:
        return part, 0
    others = [name for name in part.column_names if name not in own.column_names]
    before = part.select(own.column_names)
    both = pa.concat_tables([before, own], promote_options="default")
    places = {key: place for place, key in enumerate(row_keys(rows), start=len(part))}
    now = [places.get(key, place) for place, key in enumerate(row_keys(part))]
    current = both.take(pa.array(now, pa.int64()))
    changed = fingerprints(current) != fingerprints(before)
    updated = part.select(others)
    for field, column in zip(current.schema, current.columns, strict=True):
        updated = updated.append_column(field, column)
    return updated, int(changed.sum())


def fingerprints(rows: pa.Table) -> Bits:
    """64 bits for each row, of columns of any type; equal within this process only."""
    return _of_several([column.combine_chunks() for column in rows.columns], len(rows))


def _of_each(column: pa.Array) -> Bits:
    return np.where(np.asarray(column.is_null()), np.uint64(0), _mixed(_bits(column)))


def _bits(column: pa.Array) -> Bits:
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _bits(column.storage)
    if kinds.is_dictionary(kind):
        return _bits(column.dictionary_decode())
    if kinds.is_fixed_size_list(kind):
        return _bits(column.cast(pa.list_(kind.value_type)))
    if kinds.is_struct(kind):
        return _of_several(column.flatten(), len(column))
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_map(kind):
        return _of_lists(column)
    if kinds.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if kinds.is_primitive(kind) and kind.bit_width <= 64:
        integers = pc.fill_null(column.view(f"int{kind.bit_width}"), 0)
        return np.asarray(integers).astype(np.int64).view(np.uint64)
    if any(is_so(kind) for is_so in OF_BYTES):  # texts, too: no Parquet file vouches for UTF-8
        values = column.cast(pa.large_binary()).to_pylist()
    else:
        values = [repr(value) for value in column.to_pylist()]
    return np.fromiter(map(hash, values), np.int64, len(values)).view(np.uint64)


def _of_several(columns: list[pa.Array], length: int) -> Bits:
    bits = np.zeros(length, np.uint64)
    for column in columns:
        bits = _mixed(bits) + _of_each(column)
    return bits


def _of_lists(column: pa.Array) -> Bits:
    offsets = np.asarray(column.offsets).astype(np.int64)
    first, lengths = int(offsets[0]), np.diff(offsets)
    parts = [column.keys, column.items] if kinds.is_map(column.type) else [column.values]
    inner = [part.slice(first, int(offsets[-1]) - first) for part in parts]
    starts = offsets[:-1] - first
    place = np.arange(len(inner[0])) - np.repeat(starts, lengths)
    of_each = _mixed(_of_several(inner, len(inner[0])) + place.astype(np.uint64) * GOLDEN)
    sums = np.append(np.uint64(0), np.cumsum(of_each, dtype=np.uint64))
    return sums[starts + lengths] - sums[starts] + lengths.astype(np.uint64)


def _mixed(bits: Bits) -> Bits:
    """Steele et al. 2014, "Fast splittable pseudorandom number generators": SplitMix's mix64."""
    bits = bits + GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
