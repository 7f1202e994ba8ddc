"""The results of a shard as a Parquet table with images in it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.layouts.packed import FACTS, Packed, image_name
from pipeline.ledger import LEDGER_SCHEMA, carried_columns
from pipeline.storage import Storage

# As Hugging Face's datasets have an image in a table, and know it by.
BYTES, PATH = pa.field("bytes", pa.binary()), pa.field("path", pa.string())
IMAGE = pa.field("image", pa.struct([BYTES, PATH]))
KNOWN_BY = {"huggingface": json.dumps({"info": {"features": {IMAGE.name: {"_type": "Image"}}}})}


class ParquetTable(Packed):
    """One Parquet file: image, FACTS and the manifest's own columns, with their types."""

    suffix = "parquet"

    def __init__(
        self, storage: Storage, out: str, shard: str, rows: pa.Table, before: pa.Table | None
    ) -> None:
        super().__init__(storage, out, shard, rows, before)
        facts = [LEDGER_SCHEMA.field(name) for name in FACTS]
        own = [rows.schema.field(name) for name in carried_columns(rows)]
        self._schema = pa.schema([IMAGE, *facts, *own], metadata=KNOWN_BY)
        # Images are compressed already, and so the ledger can say where they begin.
        self._writer = pq.ParquetWriter(
            self.file, self._schema, compression="NONE", use_dictionary=False,
            write_statistics=False,
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, pa.ArrowException):  # the disk is full, or it is closed already
            self._writer.close()
        super().__exit__()

    def add(self, rows: pa.Table, images: Sequence[bytes]) -> list[int]:
        """As Packed has it: a row group."""
        keys = rows.select(["id", "variant"]).to_pylist()
        paths = [image_name(**key, image=image) for key, image in zip(keys, images, strict=True)]
        column = pa.StructArray.from_arrays(
            [pa.array(images, BYTES.type), pa.array(paths, PATH.type)], fields=[BYTES, PATH]
        )
        columns = [
            rows.column(field.name).cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(len(rows), field.type)  # of an older manifest that did not have it
            for field in list(self._schema)[1:]
        ]
        start = self.file.tell()
        self._writer.write_table(pa.table([column, *columns], schema=self._schema))
        self.file.flush()
        written = os.pread(self.file.fileno(), self.file.tell() - start, start)
        offsets, place = [], 0
        for image in images:
            place = written.index(image, place)
            offsets.append(start + place)
            place += len(image)  # the next may be alike
        return offsets

    def close(self) -> None:
        """As Packed has it."""
        self._writer.close()
