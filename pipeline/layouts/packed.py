"""All results of a shard in one file: an object to put, where there were thousands."""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RowError, SystemFault
from pipeline.items import Item, carried_columns
from pipeline.job import FOLDERS
from pipeline.ledger import LEDGER_SCHEMA, Ledger, result_source
from pipeline.manifest.listings import has_image_suffix
from pipeline.overlap import chunks
from pipeline.storage import Storage, told
from pipeline.url import join, redact_url

# Where these files lie, below OUT.
FOLDER = FOLDERS["webdataset"]

# Their names: the shard, and which of two.
NAME = re.compile(r"([0-9a-f]{16})(-2)?\.(tar|parquet)")

# What they have of a row besides its image and the manifest's own columns.
FACTS = ("id", "variant", "style", "strength", "seed", "source_uri")

# Of images, by their first bytes.
ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}

# Results of earlier runs that are read together.
CHUNK = 32


class Packed(ABC):
    """The file of one shard, which the ledger says where in it each result begins.

    Args:
        out: the output folder. rows: of the shard, as plan.Shard has them.
        before: the shard's part, if it has one.
    """

    in_turn = True
    suffix: ClassVar[str]

    def __init__(
        self, storage: Storage, out: str, shard: str, rows: pa.Table, before: pa.Table | None
    ) -> None:
        self._storage = storage
        self._out = out
        self._rows = rows.select(["id", "variant", *carried_columns(rows)])
        self._before = packed_in(before)
        self._uri = _uri(shard, self.suffix, self._before)
        self._url = join(out, self._uri)
        self._is_empty = True
        self.file = storage.spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

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
        offsets = self._add(rows, [item.data for item in done])
        for item, offset in zip(done, offsets, strict=True):
            item.data = b""
            item.record.update(output_uri=self._uri, output_offset=offset)
        return items

    def finish(self, part: pa.Table, kept: int, commit: Callable[[pa.Table], None]) -> None:
        """Put the file in its place, with what is kept of the one before it, which goes then.

        Args:
            part: what the ledger is to say; its first ``kept`` rows are of earlier runs.

        Raises:
            SystemFault: it cannot be written, or the one before not be read.
        """
        uris = part["output_uri"].to_pylist()
        offsets = part["output_offset"].to_pylist()
        staying = [row for row in range(kept) if offsets[row] is not None]
        for rows in chunks(staying, CHUNK):
            for row, offset in zip(rows, self._take_over(part.take(rows)), strict=True):
                uris[row], offsets[row] = self._uri, offset
        if not self._is_empty:
            with told("cannot write", self._url):
                self.close()
            self._storage.write_file(self._url, self.file)
        part = _replaced(part, "output_uri", uris)
        commit(_replaced(part, "output_offset", offsets))
        for uri in self._before:
            self._storage.delete(join(self._out, uri))

    def _add(self, rows: pa.Table, images: Sequence[bytes]) -> list[int]:
        self._is_empty = False
        with told("cannot write", self._url):
            return self.add(rows, images)

    def _take_over(self, part: pa.Table) -> list[int]:
        """Add rows whose results lie in another file, and tell where they begin now."""
        images = []
        places = part.select(["output_uri", "output_offset", "output_bytes"]).to_pylist()
        read = self._storage.read([result_source(self._out, place) for place in places])
        for place, image in zip(places, read, strict=True):
            if isinstance(image, RowError) or len(image) < place["output_bytes"]:
                out = redact_url(self._out)
                raise SystemFault(
                    f"{out}/{place['output_uri']} is gone or damaged; restyle verify {out} "
                    "--repair does its rows again"
                )
            images.append(image)
        own = [name for name in part.column_names if name not in LEDGER_SCHEMA.names]
        return self._add(part.select([*FACTS, *own]), images)


def sweep(storage: Storage, out: str) -> None:
    """Remove the files that no row of the ledger knows of: their runs were killed.

    Raises:
        SystemFault: the storage does not answer, or a part of the ledger cannot be read.
    """
    ledger = Ledger(storage, out)
    shards = frozenset(ledger.shards())
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in storage.names(join(out, FOLDER)):
        if match := NAME.fullmatch(name):
            found[match[1]].append(join(FOLDER, name))
    for shard, uris in found.items():
        # A shard that is done and has one file needs no look: there may be thousands of them.
        if len(uris) > 1 or shard not in shards:
            part = ledger.read_part(shard)
            known = [] if part is None else part["output_uri"].to_pylist()
            for uri in set(uris).difference(known):
                storage.delete(join(out, uri))


def image_name(id: str, variant: int, image: bytes) -> str:
    """What a row's image is called: with no dot but that before its ending.

    That is known by its first bytes, as another job may have made it.
    """
    folder, name = posixpath.split(id)
    if has_image_suffix(name):
        name = posixpath.splitext(name)[0]
    name = name.replace(".", "_") + (f"_v{variant}" if variant else "")
    return f"{posixpath.join(folder, name)}.{ENDINGS[image[:2]]}"


def packed_in(part: pa.Table | None) -> set[str]:
    """The files in which results of a part lie together."""
    if part is None:
        return set()
    packed = part.filter(pc.is_valid(part["output_offset"]))
    return set(packed["output_uri"].to_pylist())


def _uri(shard: str, suffix: str, taken: Collection[str]) -> str:
    """Where a shard's file goes, relative to the output folder: not where one lies already.

    The rows' places change from one to the next, which the ledger has to say in one step.
    """
    first, second = (join(FOLDER, f"{name}.{suffix}") for name in (shard, f"{shard}-2"))
    return second if first in taken else first


def _replaced(part: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = part.schema.get_field_index(name)
    field = part.schema.field(index)
    return part.set_column(index, field, pa.array(values, field.type))
