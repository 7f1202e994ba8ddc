"""The results of a shard as a WebDataset tar."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from pipeline.layouts.packed import Packed, image_name
from pipeline.storage import Storage

# Columns of the manifest that are files of their own.
TEXTS = ("cls", "txt")


class Tar(Packed):
    """One tar. A sample of it is an image and a .json with what its row says.

    A sample's files have one name up to its first dot: Aizman et al. 2020, "High Performance I/O
    For Large Scale Deep Learning", sec. 4.
    """

    suffix = "tar"

    def __init__(
        self, storage: Storage, out: str, shard: str, rows: pa.Table, before: pa.Table | None
    ) -> None:
        super().__init__(storage, out, shard, rows, before)
        self._keys: set[str] = set()

    def add(self, rows: pa.Table, images: Sequence[bytes]) -> list[int]:
        """As Packed has it: a sample for each row."""
        told = _for_json(rows).to_pylist()
        return [self._add_sample(row, image) for row, image in zip(told, images, strict=True)]

    def close(self) -> None:
        """As Packed has it."""
        self.file.write(bytes(2 * tarfile.BLOCKSIZE))

    def _add_sample(self, row: dict[str, Any], image: bytes) -> int:
        """Add a sample, and tell where its image begins."""
        key, ending = posixpath.splitext(image_name(row["id"], row["variant"], image))
        while key in self._keys:
            key += "_"
        self._keys.add(key)
        texts = {name: row.pop(name, None) for name in TEXTS}
        row |= _as_object(row.pop("json", None))
        texts["json"] = json.dumps(row, ensure_ascii=False, default=str)
        offset = self._add_file(key + ending, image)
        for name, text in texts.items():
            if text is not None:
                self._add_file(f"{key}.{name}", _as_text(text).encode())
        return offset

    def _add_file(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.file.write(info.tobuf(tarfile.PAX_FORMAT))
        offset = self.file.tell()
        self.file.write(data)
        self.file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset


def _as_object(value: Any) -> dict[str, Any]:
    """What a column ``json`` says, as members of an object."""
    try:
        read = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        read = value
    if isinstance(read, dict):
        return read
    return {} if read is None else {"json": read}


def _as_text(value: Any) -> str:
    """What is in a file of its own: of a number that is whole, as of a class, no ``.0``."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _for_json(rows: pa.Table) -> pa.Table:
    """The columns that JSON has words for; times, dates and decimals are texts in it."""
    for index, field in enumerate(rows.schema):
        column = rows.column(index)
        if kinds.is_timestamp(field.type) and field.type.tz:
            # Not every machine knows every zone.
            column = column.cast(pa.timestamp(field.type.unit, "UTC"))
        if kinds.is_temporal(field.type) or kinds.is_decimal(field.type):
            column = column.cast(pa.string())
        elif kinds.is_floating(field.type):
            column = pc.if_else(pc.is_finite(column), column, None)
        rows = rows.set_column(index, field.name, column)
    named = [field.name for field in rows.schema if _has_words(field.type)]
    return rows.select([name for name in named if _is_readable(rows[name])])


def _is_readable(column: pa.ChunkedArray) -> bool:
    """Whether its texts are UTF-8, which a Parquet file does not vouch for."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _has_words(kind: pa.DataType) -> bool:
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    if kinds.is_dictionary(kind):
        inner = [kind.value_type]
    if inner:
        return all(map(_has_words, inner))
    return any(
        is_one(kind)
        for is_one in (kinds.is_null, kinds.is_boolean, kinds.is_integer, kinds.is_floating,
                       kinds.is_string, kinds.is_large_string, kinds.is_string_view,
                       kinds.is_struct)
    )  # fmt: skip
