"""One shard: fetch, decode, stylize, encode and put, overlapped; then its part as the commit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.claim import STALE_AFTER, Lease
from pipeline.codec import Pixels, decode, encode
from pipeline.errors import RowError
from pipeline.inhand import NOBODY, Board, Suspects
from pipeline.items import Item, by_row, part_of
from pipeline.job import Settings
from pipeline.layouts import Layout, layout_of
from pipeline.ledger import Ledger, carried_columns
from pipeline.manifest.rows import ROW_SCHEMA
from pipeline.overlap import Clock, Queue, ahead, chunks, unfinished
from pipeline.results import ShardResult
from pipeline.storage import Source, Storage
from pipeline.styles.mix import choose, parse_style
from pipeline.styles.pack import Pack
from pipeline.stylizer import Stylizer
from pipeline.url import check_name

# Objects asked for, or put, at once: storage far away wants many requests in flight.
CHUNK = 32
CHUNKS_AHEAD = 4

# Seconds for which a look at the claim of the run counts: less than what makes one stale.
CHECKED = STALE_AFTER / 2

# Bytes of a chunk: photos as a camera makes them would fill the memory otherwise.
CHUNK_BYTES = 16 << 20
UNKNOWN_BYTES = CHUNK_BYTES / 4  # of a file of which nothing is known, until some have come

# Images decoded before the network wants them, and encoded before they are put: of one fixed
# size, or of their own sizes, which may be large.
DEPTH_FIXED = 32
DEPTH_NATIVE = 4

# Batches' worth of pixels that wait for others of their size.
WAITING = 4

STAGES = ("fetch", "decode", "stylize", "encode", "put")


class ShardWorker:
    """Does shards, one after the other, with one network.

    Args:
        job: with ``out`` in full.
        threads: for decoding, again for encoding, and on a CPU again for the network; 1: all
            that in one, beside those that wait for the storage or a GPU.
        board: says which rows are in hand, by their number in the shard.
    """

    def __init__(
        self, job: Settings, pack: Pack, storage: Storage, threads: int = 1,
        board: Board | None = None,
    ) -> None:  # fmt: skip
        self._job = job
        self.storage = storage
        self._ledger = Ledger(storage, job.out)
        self._board = board or Board()
        self._stylizer = Stylizer(
            pack, job.device, job.precision, job.preserve_colour, threads, self._board.beat
        )
        self._mixes = cache(lambda style: parse_style(style, pack.names))
        self._model_digest = pack.digest
        self._job_digest = job.digest(pack.digest)
        self._threads = threads
        self._network_threads = self._stylizer.threads(threads)
        self._begun: dict[str, Queue[Any, Any]] = {}
        self._lease = Lease(storage, job.out, "")
        self._usual_bytes = UNKNOWN_BYTES

    def queues(self) -> dict[str, int]:
        """How many images wait for each stage, or are in it; any thread may ask."""
        return {
            stage: sum(len(work) if isinstance(work, list) else 1 for work in unfinished(begun))
            for stage, begun in self._begun.items()
        }

    def gpu_memory(self) -> dict[str, int]:
        """Bytes held on each GPU."""
        held = self._stylizer.memory()
        return {str(self._stylizer.device): held} if held else {}

    def run(
        self,
        key: str,
        rows: pa.Table,
        on_progress: Callable[[int, int], None],
        suspects: Suspects = NOBODY,
        claim: str = "",
    ) -> ShardResult:
        """Do the rows of a shard and commit it.

        Rows that its part has as done already, by the same job and from the same source, stay
        as they are: doing a shard again costs little and harms nothing. Until the commit
        nothing of it is in the ledger.

        Args:
            rows: as plan.Shard has them.
            on_progress: is told how many rows got done and failed since it was last told.
            suspects: rows that may end this process, to be done first and one at a time, and
                rows that are known to.
            claim: as in ShardRef.

        Raises:
            SystemFault: results cannot be written, or the part cannot be read, or the output
                folder is not the run's any more.
        """
        clock = Clock()
        result = ShardResult(key, seconds=clock.seconds)
        if claim != self._lease.token:  # kept from shard to shard, with when it was last looked at
            self._lease = Lease(self.storage, self._job.out, claim)
        with clock.busy("wall"):
            own = pa.schema([rows.schema.field(name) for name in carried_columns(rows)])
            part = self._ledger.read_part(key, own)
            before = by_row(part)
            items = [
                item for item in self._items(rows) if not item.is_done(before, self._job_digest)
            ]
            result.done = len(rows) - len(items)
            on_progress(result.done, 0)
            finished: list[Item] = []
            with layout_of(self._job, self.storage, key, rows, part) as results:
                for item in self._one_by_one_first(items, suspects, results, clock):
                    item.complete(before, key, self._model_digest, self._job_digest)
                    item.count(result)
                    finished.append(item)
                    on_progress(*((0, 1) if item.failure else (1, 0)))
                after, result.updated = part_of(finished, part, rows)
                if finished or result.updated:

                    def commit(part: pa.Table) -> None:
                        self._lease.check()
                        self._ledger.commit(key, part)

                    self._lease.check(CHECKED)
                    results.finish(after, len(after) - len(finished), commit, self._board.beat)
        return result

    def _one_by_one_first(
        self, items: list[Item], suspects: Suspects, results: Layout, clock: Clock
    ) -> Iterator[Item]:
        rest = []
        for item in items:
            if why := suspects.lost.get(item.index):
                item.failure = ("decode", RowError("resource", why))
                yield item
            elif item.index in suspects.strikes:
                yield from self._stages([item], results, clock)
            else:
                rest.append(item)
        yield from self._stages(rest, results, clock)

    def _items(self, rows: pa.Table) -> Iterator[Item]:
        columns = [*ROW_SCHEMA.names, "variant", "_output_name"]
        for index, row in enumerate(rows.select(columns).to_pylist()):
            seed = self._job.seed if row["seed"] is None else row["seed"]
            strength = self._job.strength if row["strength"] is None else row["strength"]
            mixes = self._mixes(row["style"] or self._job.style)
            mix = choose(mixes, seed, row["id"], row["variant"])
            yield Item(index, row, mix, strength, seed)

    def _stages(self, items: list[Item], results: Layout, clock: Clock) -> Iterator[Item]:
        """Take items through all stages: they are put, or have failed, when they come."""
        depth = DEPTH_FIXED if self._job.pixels else DEPTH_NATIVE
        chunk = min(CHUNK, 2 * depth)
        flat = chain.from_iterable
        begun = self._begun = {name: Queue[Any, Any]() for name in STAGES}
        with ExitStack() as stack:
            pools = self._pools(stack, results.put_threads)

            def put(items: list[Item]) -> list[Item]:
                self._lease.check(CHECKED)
                return results.put(items)

            def stage(name: str, do: Callable[[Any], Any], work: Iterable[Any], depth: int) -> Any:
                return ahead(pools[name], clock.timed(name, do), work, depth, begun[name])

            waiting = chunks(items, chunk, self._bytes_of, CHUNK_BYTES)
            fetched = flat(stage("fetch", self._fetch, waiting, CHUNKS_AHEAD))
            decode_one = partial(_unless_failed, "decode", self._decode)
            decoded = stage("decode", decode_one, fetched, depth)
            batches = self._batches(decoded)
            styled = flat(stage("stylize", self._stylize, batches, self._network_threads))
            encode_one = partial(_unless_failed, "encode", self._encode)
            encoded = stage("encode", encode_one, styled, depth)
            done = chunks(encoded, chunk, lambda item: len(item.data), CHUNK_BYTES)
            yield from flat(stage("put", put, done, CHUNKS_AHEAD))

    def _pools(self, stack: ExitStack, put_threads: int) -> dict[str, ThreadPoolExecutor | None]:
        """The threads of each stage; None: that of the stage after it."""
        # On one core threads that compute only get in each other's way: half as much processor
        # time again for decoding and encoding, at no gain.
        several = self._threads if self._threads > 1 else 0
        threads = {
            "fetch": CHUNKS_AHEAD,
            "decode": several,
            "stylize": self._network_threads if several or self._stylizer.is_waited_for else 0,
            "encode": several,
            "put": put_threads,
        }
        return {
            name: stack.enter_context(ThreadPoolExecutor(count, name)) if count else None
            for name, count in threads.items()
        }

    def _bytes_of(self, item: Item) -> float:
        """Of its source; where that is not known, of those that came before, on average."""
        size = item.row["source_size"]
        return self._usual_bytes if size is None else float(size)

    def _fetch(self, items: list[Item]) -> list[Item]:
        wanted = []
        for item in items:
            try:
                check_name(item.row["_output_name"], self._job.folder)
                wanted.append(item)
            except RowError as error:
                item.failure = ("fetch", error)
        sources = [_source(item.row) for item in wanted]
        for item, got in zip(wanted, self.storage.read(sources), strict=True):
            if isinstance(got, RowError):
                item.failure = ("fetch", got)
            else:
                item.data = got
                item.record["source_size"] = len(got)
                item.record["source_sha256"] = hashlib.sha256(got).hexdigest()
        self._usual_bytes = sum(len(item.data) for item in items) / len(items)
        return items

    def _decode(self, item: Item) -> None:
        with self._board.holding([item.index], self._job.max_seconds):
            photo = decode(item.data, self._job.pixels, self._job.max_pixels)
        item.data, item.pixels = b"", photo.pixels
        item.record.update(
            source_format=photo.format, source_width=photo.width, source_height=photo.height
        )

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Items of one size together, no more than a batch; failed ones by themselves.

        A photo waits for others of its size while those that wait are few enough pixels. By
        order alone, never by time, so that a job done twice has the same batches.
        """
        waiting: dict[tuple[int, int], list[Item]] = {}  # by size, the longest waiting first
        room = WAITING * self._stylizer.batch_pixels

        def batch_of(height: int, width: int) -> list[Item]:
            nonlocal room
            batch = waiting.pop((height, width))
            room += len(batch) * height * width
            return batch

        for item in items:
            if item.pixels is None:
                yield [item]
                continue
            height, width = item.pixels.shape[:2]
            waiting.setdefault((height, width), []).append(item)
            room -= height * width
            if len(waiting[height, width]) == self._stylizer.batch_size(height, width):
                yield batch_of(height, width)
            while room < 0:
                yield batch_of(*next(iter(waiting)))
        yield from waiting.values()

    def _stylize(self, batch: list[Item]) -> list[Item]:
        good = [item for item in batch if item.pixels is not None]
        if not good:
            return batch
        photos = _together([item.pixels for item in good if item.pixels is not None])
        mixes, strengths = [item.mix for item in good], [item.strength for item in good]
        try:
            with self._board.holding([item.index for item in good]):
                styled = self._stylizer(photos, mixes, strengths)
        except RowError as error:
            for item in good:
                item.pixels, item.failure = None, ("stylize", error)
            return batch
        for item, pixels in zip(good, styled, strict=True):
            item.pixels = pixels
        return batch

    def _encode(self, item: Item) -> None:
        if item.pixels is None:
            return
        height, width = item.pixels.shape[:2]
        item.data = encode(item.pixels, self._job.format, self._job.quality)
        item.pixels = None
        item.record.update(
            output_bytes=len(item.data),
            output_sha256=hashlib.sha256(item.data).hexdigest(),
            output_width=width,
            output_height=height,
        )


def _together(photos: list[Pixels]) -> Pixels:
    """A batch of photos of one size; one of its own, which may be large, is not copied."""
    return np.stack(photos) if len(photos) > 1 else photos[0][None]


def _unless_failed(stage: str, call: Callable[[Item], None], item: Item) -> Item:
    """``item`` after ``call``; a RowError becomes its failure."""
    if item.failure is None:
        try:
            call(item)
        except RowError as error:
            item.pixels, item.failure = None, (stage, error)
    return item


def _source(row: dict[str, Any]) -> Source:
    return Source(row["source_uri"], row["_source_offset"], row["source_size"])
