"""How the results of a shard lie in OUT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

import pyarrow as pa

from pipeline.items import Item
from pipeline.job import FOLDERS, Settings
from pipeline.layouts.packed import Packed, packed_in
from pipeline.layouts.parquet import ParquetTable
from pipeline.layouts.webdataset import Tar
from pipeline.storage import Storage
from pipeline.url import join

PACKED: dict[str, type[Packed]] = {"webdataset": Tar, "parquet": ParquetTable}


class Layout(Protocol):
    """Takes the results of one shard, in a with statement.

    Attributes:
        put_threads: how many may call put() at once.
    """

    put_threads: int

    def put(self, items: list[Item]) -> list[Item]:
        """Take the data of those that have not failed, and record where it lies."""

    def finish(
        self, part: pa.Table, kept: int, commit: Callable[[pa.Table], None],
        beat: Callable[[], None],
    ) -> None:  # fmt: skip
        """Have it all in its place, and only then ``commit``.

        Args:
            part: what the ledger is to say; its first ``kept`` rows are of earlier runs, and what
                it says of their places may have to change.
            beat: is called whenever there is progress, as this may take long.

        Raises:
            SystemFault: something cannot be written, or results of earlier runs not be read.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Files:
    """Every result is a file under the name of its row."""

    put_threads = 4  # storage far away wants many requests in flight

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def put(self, items: list[Item]) -> list[Item]:
        """As Layout has it."""
        urls = {join(self._folder, item.row["_output_name"]): item for item in items}
        done = {url: item.data for url, item in urls.items() if item.failure is None}
        for url, error in self._storage.try_write(done, self._folder).items():
            urls[url].failure = ("put", error)
        for item in items:
            item.data = b""
            item.record["output_uri"] = join(FOLDERS["files"], item.row["_output_name"])
        return items

    def finish(
        self, part: pa.Table, kept: int, commit: Callable[[pa.Table], None],
        beat: Callable[[], None],
    ) -> None:  # fmt: skip
        """As Layout has it."""
        commit(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def layout_of(
    job: Settings, storage: Storage, shard: str, rows: pa.Table, before: pa.Table | None
) -> Layout:
    """Where the results of a shard of ``job`` go.

    Args:
        rows: as plan.Shard has them. before: the shard's part, if it has one.
    """
    if job.layout == "files":
        return Files(storage, job.folder)
    return PACKED[job.layout](storage, job.out, shard, rows, before)


def commit_less(
    storage: Storage, out: str, shard: str, before: pa.Table, after: pa.Table,
    commit: Callable[[pa.Table], None],
) -> None:  # fmt: skip
    """``commit`` a part that has fewer rows than before; files in which they lay are made anew.

    Raises:
        SystemFault: such a file cannot be written, or not be read.
    """
    packed = packed_in(before)
    if not packed:
        commit(after)
        return
    kinds = {kind.suffix: kind for kind in PACKED.values()}
    kind = kinds[min(packed).rpartition(".")[2]]
    with kind(storage, out, shard, before, before) as layout:
        layout.finish(after, len(after), commit, lambda: None)
