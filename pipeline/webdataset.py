"""The results of a shard as one WebDataset tar: an object to put, where there were thousands."""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import pyarrow as pa
import pyarrow.types as kinds

from pipeline.errors import RowError, SystemFault
from pipeline.items import Item, carried_columns
from pipeline.job import FOLDERS
from pipeline.ledger import LEDGER_SCHEMA, Ledger, result_source
from pipeline.manifest.listings import has_image_suffix
from pipeline.overlap import chunks
from pipeline.storage import Storage, told
from pipeline.url import join, redact_url

FOLDER = FOLDERS["webdataset"]

# The names of tars: the shard, and which of two.
NAME = re.compile(r"([0-9a-f]{16})(-2)?\.tar")

# Of a row, what its sample's .json says besides the manifest's own columns.
FACTS = ("id", "variant", "style", "strength", "seed", "source_uri")

# Columns of the manifest that are files of their own.
TEXTS = ("cls", "txt")

# Results of earlier runs that are read together.
CHUNK = 32


class Tar:
    """One tar. A sample of it is an image and a .json with what its row says.

    A sample's files have one name up to its first dot (Aizman et al. 2020, "High Performance I/O
    For Large Scale Deep Learning", sec. 4), so other dots of a row's name become underscores.

    Args:
        out: the output folder. uri: of the tar, relative to it.
        rows: of the shard, as plan.Shard has them.
    """

    in_turn = True

    def __init__(self, storage: Storage, out: str, uri: str, rows: pa.Table) -> None:
        self._storage = storage
        self._out = out
        self._uri = uri
        self._url = join(out, uri)
        self._rows = _for_json(rows.select(["id", "variant", *carried_columns(rows)]))
        self._keys: set[str] = set()
        self._file = storage.spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, items: list[Item]) -> list[Item]:
        """Add samples for those of ``items`` that have not failed, and record where they lie."""
        done = [item for item in items if item.failure is None]
        rows = self._rows.take(pa.array([item.index for item in done], pa.int64())).to_pylist()
        for item, carried in zip(done, rows, strict=True):
            facts = {
                "id": carried.pop("id"),
                "variant": carried.pop("variant"),
                "style": str(item.mix),
                "strength": item.strength,
                "seed": item.seed,
                "source_uri": redact_url(item.row["source_uri"]),
            }
            offset = self._add(facts, carried, item.data)
            item.data = b""
            item.record.update(output_uri=self._uri, output_offset=offset)
        return items

    def finish(self, part: pa.Table, kept: int, commit: Callable[[pa.Table], None]) -> None:
        """Put the tar in its place, with what is kept of the tar before it, which goes then.

        Args:
            part: what the ledger is to say; its first ``kept`` rows are of earlier runs.

        Raises:
            SystemFault: it cannot be written, or the one before not be read.
        """
        uris = part["output_uri"].to_pylist()
        offsets = part["output_offset"].to_pylist()
        staying = [row for row in range(kept) if offsets[row] is not None]
        before = {uris[row] for row in staying}
        for rows in chunks(staying, CHUNK):
            moved = self._take_over(part.take(rows))
            for row, offset in zip(rows, moved, strict=True):
                uris[row], offsets[row] = self._uri, offset
        if self._keys:
            self._write(bytes(2 * tarfile.BLOCKSIZE))
            self._storage.write_file(self._url, self._file)
        part = _replaced(part, "output_uri", uris)
        commit(_replaced(part, "output_offset", offsets))
        for uri in before:
            self._storage.delete(join(self._out, uri))

    def _take_over(self, part: pa.Table) -> list[int]:
        """Add the samples of rows whose results lie in another tar, and tell where they begin."""
        places = part.select(["output_uri", "output_offset", "output_bytes"]).to_pylist()
        carried = [name for name in part.column_names if name not in LEDGER_SCHEMA.names]
        rows = _for_json(part.select([*FACTS, *carried])).to_pylist()
        offsets = []
        read = self._storage.read([result_source(self._out, place) for place in places])
        for place, row, data in zip(places, rows, read, strict=True):
            if isinstance(data, RowError) or len(data) < place["output_bytes"]:
                out = redact_url(self._out)
                raise SystemFault(
                    f"{out}/{place['output_uri']} is gone or damaged; restyle verify {out} "
                    "--repair does its rows again"
                )
            offsets.append(self._add({name: row.pop(name) for name in FACTS}, row, data))
        return offsets

    def _add(self, facts: dict[str, Any], carried: dict[str, Any], image: bytes) -> int:
        """Add a sample, and tell where its image begins.

        Args:
            facts: FACTS of its row. carried: columns of the manifest's own.
        """
        key = _stem(facts["id"], facts["variant"])
        while key in self._keys:
            key += "_"
        self._keys.add(key)
        texts = {name: carried.pop(name, None) for name in TEXTS}
        own = _as_object(carried.pop("json", None))
        texts["json"] = json.dumps({**facts, **carried, **own}, ensure_ascii=False, default=str)
        offset = self._add_file(f"{key}.{_suffix(image)}", image)
        for name, text in texts.items():
            if text is not None:
                self._add_file(f"{key}.{name}", str(text).encode())
        return offset

    def _add_file(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.PAX_FORMAT))
        offset = self._file.tell()
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def _write(self, data: bytes) -> None:
        with told("cannot write", self._url):
            self._file.write(data)


def tar_uri(shard: str, before: pa.Table | None) -> str:
    """Where a shard's tar goes, relative to the output folder: not where it lies already.

    The rows' places change from one to the next, which the ledger has to say in one step.

    Args:
        before: the shard's part, if it has one.
    """
    first, second = (join(FOLDER, f"{name}.tar") for name in (shard, f"{shard}-2"))
    taken = before is not None and first in before["output_uri"].to_pylist()
    return second if taken else first


def sweep(storage: Storage, out: str) -> None:
    """Remove the tars that no row of the ledger knows of: their runs were killed.

    Raises:
        SystemFault: the storage does not answer, or a part of the ledger cannot be read.
    """
    ledger = Ledger(storage, out)
    shards = frozenset(ledger.shards())
    tars: defaultdict[str, list[str]] = defaultdict(list)
    for name in storage.names(join(out, FOLDER)):
        if match := NAME.fullmatch(name):
            tars[match[1]].append(join(FOLDER, name))
    for shard, uris in tars.items():
        # A shard that is done and has one tar needs no look: there may be thousands of them.
        if len(uris) > 1 or shard not in shards:
            part = ledger.read_part(shard)
            known = [] if part is None else part["output_uri"].to_pylist()
            for uri in set(uris).difference(known):
                storage.delete(join(out, uri))


def _replaced(part: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = part.schema.get_field_index(name)
    field = part.schema.field(index)
    return part.set_column(index, field, pa.array(values, field.type))


def _stem(row_id: str, variant: int) -> str:
    """What the files of a row's sample are to be called, up to their dot."""
    folder, name = posixpath.split(row_id)
    if has_image_suffix(name):
        name = posixpath.splitext(name)[0]
    name = name.replace(".", "_") + (f"_v{variant}" if variant else "")
    return posixpath.join(folder, name)


def _suffix(image: bytes) -> str:
    """Of a result's file; what is taken over may have been made by another job than this."""
    return {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}[image[:2]]


def _as_object(value: Any) -> dict[str, Any]:
    """What a column ``json`` says, as members of an object."""
    try:
        read = json.loads(value)
    except (TypeError, ValueError):
        read = value
    if isinstance(read, dict):
        return read
    return {} if read is None else {"json": read}


def _for_json(rows: pa.Table) -> pa.Table:
    """The columns that JSON has words for; times, dates and decimals are texts in it."""
    for index, field in enumerate(rows.schema):
        if kinds.is_temporal(field.type) or kinds.is_decimal(field.type):
            rows = rows.set_column(index, field.name, rows.column(index).cast(pa.string()))
    return rows.select([field.name for field in rows.schema if _has_words(field.type)])


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
