"""All results of a shard in one file: an object to put, where there were thousands."""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RowError, SystemFault
from pipeline.items import Item
from pipeline.job import FOLDERS, PACKED_NAME
from pipeline.ledger import LEDGER_SCHEMA, Ledger, carried_columns, result_source
from pipeline.manifest.listings import has_image_suffix
from pipeline.overlap import chunks
from pipeline.storage import Storage, told
from pipeline.url import join, redact_url, scheme_of

# Where these files lie, below OUT.
FOLDER = FOLDERS["webdataset"]

# Their names.
NAME = re.compile(rf"{PACKED_NAME}\.(tar|parquet)")

# What they have of a row besides its image and the manifest's own columns.
FACTS = ("id", "variant", "style", "strength", "seed", "source_uri")

# Of images, by their first bytes.
ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}

# Bytes that are read at once of what nobody asks for.
PIECE = 1 << 20

# Results of earlier runs that are read together, and their bytes: they may be large.
CHUNK = 32
CHUNK_BYTES = 16 << 20


class Packed(ABC):
    """The file of one shard, which the ledger says where in it each result begins.

    Args:
        out: the output folder. rows: of the shard, as plan.Shard has them.
        before: the shard's part, if it has one.
    """

    put_threads = 1
    suffix: ClassVar[str]

    def __init__(
        self, storage: Storage, out: str, shard: str, rows: pa.Table, before: pa.Table | None
    ) -> None:
        self._storage = storage
        self._out = out
        self._rows = rows.select(["id", "variant", *carried_columns(rows)])
        self._before = packed_in(before)
        self._shard = shard
        self._url = join(out, FOLDER, f"{shard}.{self.suffix}")  # for messages: yet without digest
        self._is_empty = True
        with self._gathering():
            self.file = storage.spool(self._url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._storage.discard(self.file)

    @abstractmethod
    def add(self, rows: pa.Table, images: Sequence[bytes]) -> list[int]:
        """Write rows, FACTS and columns of the manifest's own, to ``file``, with their images.

        Returns:
            Where each image begins.
        """

    @abstractmethod
    def close(self) -> None:
        """Write what stands at the end."""

    def put(self, items: list[Item]) -> list[Item]:
        """Add those that have not failed, and record where they lie."""
        done = [item for item in items if item.failure is None]
        if not done:
            return items
        facts = {
            "style": [str(item.mix) for item in done],
            "strength": [item.strength for item in done],
            "seed": [item.seed for item in done],
            "source_uri": [redact_url(item.row["source_uri"]) for item in done],
        }
        rows = self._rows.take(pa.array([item.index for item in done]))
        for name, values in facts.items():
            field = LEDGER_SCHEMA.field(name)
            rows = rows.append_column(field, pa.array(values, field.type))
        rows = rows.select([*FACTS, *carried_columns(rows)])  # in the order of those that stay
        offsets = self._add(rows, [item.data for item in done])
        for item, offset in zip(done, offsets, strict=True):
            item.data = b""
            item.record["output_offset"] = offset
        return items

    def finish(
        self, part: pa.Table, kept: int, commit: Callable[[pa.Table], None],
        beat: Callable[[], None],
    ) -> None:  # fmt: skip
        """Put the file in its place, with what is kept of the one before it, which goes then.

        Args:
            part: what the ledger is to say; its first ``kept`` rows are of earlier runs.
            beat: as Layout has it.

        Raises:
            SystemFault: it cannot be written, or the one before not be read.
        """
        offsets = part["output_offset"].to_pylist()
        sizes = part["output_bytes"].to_pylist()
        staying = [row for row in range(kept) if offsets[row] is not None]
        for rows in chunks(staying, CHUNK, lambda row: sizes[row], CHUNK_BYTES):
            for row, offset in zip(rows, self._take_over(part.take(rows)), strict=True):
                offsets[row] = offset
            beat()
        uri = "" if self._is_empty else self._write(beat)
        is_here = pc.is_valid(pa.array(offsets, pa.int64()))
        uris = pc.if_else(is_here, uri, part["output_uri"])
        part = _replaced(part, "output_uri", uris)
        commit(_replaced(part, "output_offset", offsets))
        for earlier in self._before - {uri}:
            self._storage.delete(join(self._out, earlier))

    def _gathering(self) -> AbstractContextManager[None]:
        """Inside, what goes wrong is told: of what is on this machine, wherever it goes at last."""
        is_here = scheme_of(self._url) == "file"
        temporary = "the folder for temporary files (TMPDIR) cannot take"
        return told("cannot write" if is_here else temporary, self._url)

    def _write(self, beat: Callable[[], None]) -> str:
        """Put the file in its place, and tell which that is, relative to the output folder.

        What is under one name never changes: a worker that was given up for lost, and comes to
        its end all the same, writes over nothing of which the ledger says where in it results are.
        """
        with self._gathering():
            self.close()
            self.file.seek(0)
            digest = FileDigest(self.file).at_end()
            uri = join(FOLDER, f"{self._shard}-{digest}.{self.suffix}")
        self._storage.write_file(join(self._out, uri), self.file, beat)
        return uri

    def _add(self, rows: pa.Table, images: Sequence[bytes]) -> list[int]:
        self._is_empty = False
        with self._gathering():
            return self.add(rows, images)

    def _take_over(self, part: pa.Table) -> list[int]:
        """Add rows whose results lie in another file, and tell where they begin now."""
        images: list[bytes] = []
        columns = ["output_uri", "output_offset", "output_bytes", "output_sha256"]
        places = part.select(columns).to_pylist()
        read = self._storage.read([result_source(self._out, place) for place in places])
        for place, image in zip(places, read, strict=True):
            if isinstance(image, RowError):
                raise self._unfit(place["output_uri"], image.message)
            if hashlib.sha256(image).hexdigest() != place["output_sha256"]:
                raise self._unfit(place["output_uri"], "it is damaged")
            images.append(image)
        return self._add(part.select([*FACTS, *carried_columns(part)]), images)

    def _unfit(self, uri: str, why: str) -> SystemFault:
        out = redact_url(self._out)
        return SystemFault(f"{out}/{uri}: {why}; restyle verify {out} --repair does its rows again")


class FileDigest:
    """Reads a file of results from its beginning to its end, for the digest in its name."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=8)
        self._place = 0

    def read(self, size: int) -> bytes:
        """The next bytes, fewer where the file ends."""
        data: bytes = self._file.read(size)
        self._place += len(data)
        self._digest.update(data)
        return data

    def skip_to(self, place: int) -> None:
        """Have it read up to there, or to its end."""
        while self._place < place and self.read(min(PIECE, place - self._place)):
            pass

    def at_end(self) -> str:
        """Have it read to its end; the digest of all of it."""
        self.skip_to(sys.maxsize)
        return self._digest.hexdigest()


def sweep(storage: Storage, out: str) -> None:
    """Remove the files that no row of the ledger knows of: their runs were killed.

    Raises:
        SystemFault: the storage does not answer. RequestError: a part of the ledger is damaged.
    """
    # In this order: what is committed after the listing is in the ledger by the time it is read.
    names = filter(NAME.fullmatch, storage.names(join(out, FOLDER)))
    unknown = {join(FOLDER, name) for name in names}
    for rows in Ledger(storage, out).scan(["output_uri"]) if unknown else ():
        unknown.difference_update(pc.unique(rows["output_uri"]).to_pylist())
    for uri in unknown:
        storage.delete(join(out, uri))


def image_name(id: str, variant: int, image: bytes) -> str:
    """What a row's image is called: with no dot but that before its ending.

    That is known by its first bytes, as another job may have made it.
    """
    folder, name = posixpath.split(id)
    if has_image_suffix(name):
        name = posixpath.splitext(name)[0]
    name = name.replace(".", "_") + (f"_v{variant}" if variant else "")
    # What is hidden is not read.
    path = re.sub(r"(^|/)\.", r"\1_", posixpath.join(folder, name))
    return f"{path}.{ENDINGS[image[:2]]}"


def packed_in(part: pa.Table | None) -> set[str]:
    """The files in which results of a part lie together."""
    if part is None:
        return set()
    packed = part.filter(pc.is_valid(part["output_offset"]))
    return set(packed["output_uri"].to_pylist())


def _replaced(part: pa.Table, name: str, values: Any) -> pa.Table:
    index = part.schema.get_field_index(name)
    field = part.schema.field(index)
    values = pa.array(values, field.type) if isinstance(values, list) else values
    return part.set_column(index, field, values)
