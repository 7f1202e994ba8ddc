"""The plan: rows cut into shards, less what the ledger says is done."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.carried import fingerprints
from pipeline.errors import RequestError
from pipeline.job import Settings
from pipeline.ledger import Ledger, recorded_uris
from pipeline.manifest import Manifest
from pipeline.styles.mix import parse_style
from pipeline.text import plural

ENDINGS = {"jpg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}

NEW, DONE, FAILED, AGAIN, OUTDATED = range(5)

# Why a row that is done is not left as it is.
WHY_OUTDATED = "their own columns have other values in the manifest by now"

# Rows of a shard at the end of a plan, at least: fewer are not worth what a shard costs.
LEAST_ROWS = 64

# Rows that are done again and put in order together.
TOGETHER = 1 << 17

# Shards' worth of rows that are held back until it is known how many are left.
MOST_HELD = 128


@dataclass(frozen=True)
class Shard:
    """Rows that one worker does and commits as one.

    Args:
        key: identity, from the ids in it alone, so the same rows make the same shard wherever
            and whenever they are planned. Rows that are done again keep the key under which
            the ledger has them, so that its part can replace them in one step.
        rows: the manifest's columns, ``variant`` and ``output_name``.
    """

    key: str
    rows: pa.Table


@dataclass
class Plan:
    """The figures of a plan; complete when its last shard has been taken."""

    rows: int = 0
    done: int = 0
    failed: int = 0  # in an earlier run, and not tried again
    gone: int = 0  # besides: in the ledger, of these settings, but asked for earlier only
    left: int = 0
    outdated: int = 0  # of these, done but for other values in the manifest's own columns
    shards: int = 0
    largest: int = 0  # rows of the largest shard
    left_bytes: int = 0  # of photos that are to be read
    unknown_sizes: int = 0  # and of how many the manifest does not tell the size

    @property
    def to_do(self) -> int:
        """Photos to be stylized."""
        return self.left - self.outdated


def output_names(ids: pa.Array, variants: pa.Array, image_format: str) -> pa.Array:
    """Paths of the results below OUT/images; (N,) strings and (N,) int32 -> (N,) strings.

    The id, with ``.<format>`` where it does not end in it; variants after the first carry
    their number before that ending.
    """
    endings = ENDINGS[image_format]
    if not pc.any(pc.greater(variants, 0)).as_py():
        # Most plans. The regular expression below would be a fifth of their time.
        lower = pc.ascii_lower(ids)
        has_one = reduce(pc.or_, [pc.ends_with(lower, ending) for ending in endings])
        return pc.binary_join_element_wise(ids, pc.if_else(has_one, "", f".{image_format}"), "")
    known = "|".join(map(re.escape, endings))
    pattern = rf"(?is)^(?P<stem>.*?)(?P<ending>{known})?$"
    stem, ending = pc.extract_regex(ids, pattern).flatten()
    ending = pc.if_else(pc.equal(ending, ""), f".{image_format}", ending)
    number = pc.binary_join_element_wise(".v", variants.cast(pa.string()), "")
    number = pc.if_else(pc.greater(variants, 0), number, "")
    return pc.binary_join_element_wise(stem, number, ending, "")


def plan_shards(
    manifest: Manifest,
    ledger: Ledger,
    job: Settings,
    digest: str,
    style_names: list[str],
    plan: Plan,
    size: int,
    workers: int,
) -> Iterator[Shard]:
    """The shards of what is left to do, in the manifest's order.

    Every row is looked at before the last shard comes, so an error in the last row is known
    before any work has begun if the shards are all taken first.

    Args:
        digest: of the job, as Settings.digest gives it.
        style_names: what the manifest's ``style`` column may name.
        plan: is filled in as the rows go by.
        size: rows of a shard, at most. workers: how many share the end; 0: all shards alike.

    Raises:
        RequestError: an empty source, two rows with one id, an unknown style.
    """
    settled = _Settled(ledger, job, digest, style_names, manifest.carried)
    plan.gone = int(settled.ours.sum())
    cutter = _Cutter(size, workers)
    again = _Regrouper(settled)
    seen: list[NDArray[np.int64]] = []
    for rows in _expanded(manifest, job, style_names):
        keys = hashes(rows.column("_output_name"))
        seen.append(keys)
        states, shard_codes, ours = settled.look_up(rows, keys)
        plan.rows += len(rows)
        plan.gone -= ours
        plan.done += int((states == DONE).sum())
        plan.failed += int((states == FAILED).sum())
        plan.outdated += int((states == OUTDATED).sum())
        to_do = pa.array((states == NEW) | (states == AGAIN))
        sizes = rows.column("source_size").filter(to_do)
        plan.left_bytes += pc.sum(sizes).as_py() or 0
        plan.unknown_sizes += sizes.null_count
        for shard in cutter.add(rows.filter(pa.array(states == NEW))):
            yield _counted(shard, plan)
        for shard in again.add(rows, np.where(states >= AGAIN, shard_codes, -1)):
            yield _counted(shard, plan)
    if not plan.rows:
        raise RequestError(f"{manifest.name} has no images")
    _refuse_duplicates(np.concatenate(seen), manifest, job)
    for shard in [*again.rest(), *cutter.rest()]:
        yield _counted(shard, plan)


def asked_for(manifest: Manifest, job: Settings) -> NDArray[np.int64]:
    """hashes() of the output_names of all rows that the manifest has now, in order."""
    keys = [hashes(rows.column("_output_name")) for rows in _expanded(manifest, job, None)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *keys]))


def _counted(shard: Shard, plan: Plan) -> Shard:
    plan.shards += 1
    plan.largest = max(plan.largest, len(shard.rows))
    plan.left += len(shard.rows)
    return shard


def _expanded(
    manifest: Manifest, job: Settings, style_names: list[str] | None
) -> Iterator[pa.Table]:
    """The manifest's rows up to the limit, each as often as there are variants.

    ``style_names``: what the ``style`` column may name; None: not looked at.
    """
    taken = 0
    known: set[str | None] = set()
    for batch in manifest.read():
        if job.limit is not None:
            batch = batch.slice(0, job.limit - taken)
        if not len(batch):
            continue  # many blank lines
        if style_names:
            check_styles(batch, job, style_names, manifest.name, taken + 1, known)
        taken += len(batch)
        table = pa.Table.from_batches([batch])
        variants = np.zeros(len(batch), np.int32)
        if job.variants > 1:
            table = table.take(pa.array(np.repeat(np.arange(len(batch)), job.variants)))
            variants = np.tile(np.arange(job.variants, dtype=np.int32), len(batch))
        ids = table.column("id").combine_chunks()
        names = output_names(ids, pa.array(variants), job.format)
        yield table.append_column("variant", pa.array(variants)).append_column(
            "_output_name", names
        )
        if taken == job.limit:
            return


def check_styles(
    rows: pa.RecordBatch, job: Settings, names: list[str], manifest: str, first: int,
    known: set[str | None],
) -> None:  # fmt: skip
    """See whether there are the styles that rows want, and as many as there are variants.

    Args:
        names: of all styles. manifest: its name, and ``first`` the number of the first row, for
            messages. known: styles that need not be looked at; those of ``rows`` are added.

    Raises:
        RequestError: there are not.
    """
    for style in set(pc.unique(rows.column("style")).to_pylist()) - known:
        try:
            _check_style(job.style if style is None else style, job.variants, names)
        except RequestError as error:
            if style is None:
                raise
            row = first + pc.index(rows.column("style"), style).as_py()
            raise RequestError(f"{manifest}, row {row}, column style: {error}") from None
        known.add(style)


def _check_style(expression: str, variants: int, names: list[str]) -> None:
    choices = [str(mix) for mix in parse_style(expression, names)]
    distinct = len(set(choices))
    if variants > 1 and distinct < max(variants, len(choices)):
        raise RequestError(
            f"--variants {variants} of {plural(distinct, 'style')}: some results of an image would "
            "be alike; name more, each once: wave,starry"
        )


class _Settled:
    """What the ledger says of each row, held as arrays: about 60 bytes a row."""

    COLUMNS = ("id", "variant", "status", "error_class", "source_uri", "source_size",
               "source_etag", "job_digest", "shard", "style", "strength", "seed")  # fmt: skip

    def __init__(
        self, ledger: Ledger, job: Settings, digest: str, names: list[str], carried: pa.Schema
    ) -> None:
        self._names, self._own = names, carried.names
        self.shards: list[str] = []
        codes: dict[str, int] = {}
        columns: list[tuple[NDArray[Any], ...]] = [
            (np.empty(0, np.int64),) * 7 + (np.empty(0, np.int32),) * 4
        ]
        for batch in ledger.scan(self.COLUMNS, own=carried):
            names = output_names(batch.column("id"), batch.column("variant"), job.format)
            failed = pc.equal(batch.column("status"), "failed")
            bad_image = pc.equal(pc.fill_null(batch.column("error_class"), ""), "input")
            ours = pc.equal(batch.column("job_digest"), digest)
            state = np.where(failed, FAILED, DONE)
            retried = pc.and_(failed, True if job.retry_failed else pc.invert(bad_image))
            state[np.asarray(pc.or_(retried, pc.invert(ours)))] = AGAIN
            shard = batch.column("shard").dictionary_encode()
            for key in shard.dictionary.to_pylist():
                if codes.setdefault(key, len(codes)) == len(self.shards):
                    self.shards.append(key)
            local = np.array([codes[key] for key in shard.dictionary.to_pylist()], np.int64)
            columns.append(
                (
                    hashes(names),
                    state.astype(np.int64),
                    np.asarray(ours),
                    hashes(batch.column("source_uri")),
                    _numbers(batch.column("source_size")),
                    hashes(batch.column("source_etag")),
                    local[np.asarray(shard.indices)],
                    _short(_hashes_of_few(batch.column("style"))),
                    _short(_given(batch.column("strength").view(pa.int64()))),
                    _short(_given(batch.column("seed"))),
                    self._of_own_columns(pa.Table.from_batches([batch])),
                )
            )
        merged = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
        order = np.argsort(merged[0], kind="stable")
        (
            self.keys, states, ours, self.uris, self.sizes, self.etags, self.codes,
            self.styles, self.strengths, self.seeds, self.own,
        ) = (part[order] for part in merged)  # fmt: skip
        self.states, self.ours = states.astype(np.int8), ours.astype(bool)
        self.rows_of_shard = np.bincount(self.codes, minlength=len(self.shards))

    def look_up(
        self, rows: pa.Table, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int8], NDArray[np.int64], int]:
        """For each row NEW, DONE or whatever it is, and the code of the shard that has it.

        And how many of them the ledger has of these settings.
        """
        if not len(self.keys):
            return np.full(len(keys), NEW, np.int8), np.zeros(len(keys), np.int64), 0
        place, known = _places(self.keys, keys)
        # The ledger holds addresses without their secrets.
        changed = _differ(hashes(recorded_uris(rows.column("source_uri"))), self.uris[place])
        changed |= _differ(_numbers(rows.column("source_size")), self.sizes[place])
        changed |= _differ(hashes(rows.column("source_etag")), self.etags[place])
        # What the manifest says of a row alone; what the job says is in its digest.
        styles = _short(_hashes_of_few(rows.column("style").combine_chunks(), self._canonical))
        changed |= _differ(styles, self.styles[place])
        strengths = rows.column("strength").combine_chunks().view(pa.int64())
        changed |= _differ(_short(_given(strengths)), self.strengths[place])
        changed |= _differ(_short(_given(rows.column("seed"))), self.seeds[place])
        states = np.where(changed, np.int8(AGAIN), self.states[place])
        outdated = self._of_own_columns(rows) != self.own[place]
        states[(states == DONE) & outdated] = OUTDATED
        ours = int((known & self.ours[place]).sum())
        return np.where(known, states, np.int8(NEW)), self.codes[place], ours

    def _of_own_columns(self, rows: pa.Table) -> NDArray[np.int32]:
        return _short(fingerprints(rows.select(self._own)).view(np.int64))

    def _canonical(self, styles: pa.Array) -> pa.Array:
        """As the ledger has them; null where a style is to be chosen among several."""
        parsed = [parse_style(style, self._names) for style in styles.to_pylist()]
        return pa.array([str(one[0]) if len(one) == 1 else None for one in parsed], pa.string())


class _Cutter:
    """Cuts new rows into shards of one size, and smaller ones towards the end.

    So that no worker is left with much to do while the others have nothing: each shard is a
    fixed share of what is left (Polychronopoulos and Kuck 1987, "Guided Self-Scheduling", here
    with half of it, as photos are not all alike).
    """

    def __init__(self, size: int, workers: int) -> None:
        self._size = size
        self._share = min(2 * workers, MOST_HELD)
        self._least = max(LEAST_ROWS, size // 16)
        self._waiting: list[pa.Table] = []
        self._count = 0

    def add(self, rows: pa.Table) -> Iterator[Shard]:
        self._waiting.append(rows)
        self._count += len(rows)
        whole = self._count // self._size - self._share
        if whole <= 0:
            return
        whole *= self._size
        table = pa.concat_tables(self._waiting)
        self._waiting, self._count = [table.slice(whole)], len(table) - whole
        names = row_names(table.slice(0, whole))
        for start in range(0, whole, self._size):
            key = shard_key(names[start : start + self._size])
            yield Shard(key, table.slice(start, self._size))

    def rest(self) -> Iterator[Shard]:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        start = 0
        while left := len(rows) - start:
            shards = max(1, min(self._share, left // self._least))
            # Whole batches.
            count = min(self._size, math.ceil(left / shards / LEAST_ROWS) * LEAST_ROWS, left)
            shard = rows.slice(start, count)
            yield Shard(shard_key(row_names(shard)), shard)
            start += count


class _Regrouper:
    """Gathers rows that are done again under the shards in which the ledger has them."""

    def __init__(self, settled: _Settled) -> None:
        self._settled = settled
        # Tables whose rows are in order of their shards, and the code of each row's shard. Not a
        # table for each shard and batch: of rows in any order these would be as many as the rows.
        self._waiting: list[tuple[pa.Table, NDArray[np.int64]]] = []
        self._rows_of_shard = np.zeros_like(settled.rows_of_shard)

    def add(self, rows: pa.Table, codes: NDArray[np.int64]) -> Iterator[Shard]:
        order = np.argsort(codes, kind="stable")
        order = order[np.searchsorted(codes[order], 0) :]
        if not len(order):
            return
        self._waiting.append((rows.take(pa.array(order)), codes[order]))
        self._rows_of_shard += np.bincount(codes[order], minlength=len(self._rows_of_shard))
        # No need to hold until the end what is complete, which a whole job done again would; but
        # only when it is half of all, as the others are copied.
        is_whole = self._rows_of_shard == self._settled.rows_of_shard
        if 2 * self._rows_of_shard[is_whole].sum() >= self._rows_of_shard.sum():
            yield from self._take(is_whole & (self._rows_of_shard > 0))

    def rest(self) -> Iterator[Shard]:
        yield from self._take(self._rows_of_shard > 0)

    def _take(self, wanted: NDArray[np.bool_]) -> Iterator[Shard]:
        """The shards that are ``wanted``, by their codes; the rows of others stay."""
        given, self._waiting = self._waiting, []
        for table, codes in given:
            stays = ~wanted[codes]
            if stays.any():
                self._waiting.append((table.filter(pa.array(stays)), codes[stays]))
        for first, last in _spans(np.where(wanted, self._rows_of_shard, 0)):
            slices = []
            for table, codes in given:
                start, end = np.searchsorted(codes, [first, last])
                slices.append((table.slice(start, end - start), codes[start:end]))
            codes = np.concatenate([codes for _, codes in slices])
            order = np.argsort(codes, kind="stable")
            order = order[wanted[codes[order]]]
            table = pa.concat_tables([table for table, _ in slices]).take(pa.array(order))
            shards = np.unique(codes[order], return_index=True, return_counts=True)
            for code, start, count in zip(*(part.tolist() for part in shards), strict=True):
                yield Shard(self._settled.shards[code], table.slice(start, count))
        self._rows_of_shard[wanted] = 0


def _spans(counts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and after the last of as many as have TOGETHER rows, or of one that has more."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(ends) and ends[-1] > (before := int(ends[first - 1]) if first else 0):
        last = max(first + 1, int(np.searchsorted(ends, before + TOGETHER, "right")))
        yield first, last
        first = last


def row_names(rows: pa.Table) -> list[str]:
    """For each row its id and variant, so that no two are alike."""
    variants = rows.column("variant").cast(pa.string())
    names: list[str] = pc.binary_join_element_wise(
        rows.column("id"), variants, "", "\0"
    ).to_pylist()
    return names


def shard_key(names: list[str]) -> str:
    """Identity of a shard: a digest of the names of its rows, in order."""
    return hashlib.blake2b("".join(names).encode(), digest_size=8).hexdigest()


def hashes(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """64 bits for each string, equal within this process only; 0 for null.

    Python's own string hash is keyed anew in every process, so nobody can prepare a
    collision, and a job that chance gives one (once in 100,000 jobs of ten million rows)
    has another key the next time.
    """
    values = texts.to_pylist()
    return np.fromiter((0 if v is None else hash(v) for v in values), np.int64, len(values))


def contains(known: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``keys`` are among ``known``, which are in order."""
    return _places(known, keys)[1] if len(known) else np.zeros(len(keys), bool)


def _places(
    known: NDArray[np.int64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of ``keys`` is in ``known``, of at least one in order, and whether it is there."""
    place = np.searchsorted(known, keys)
    place[place == len(known)] = 0
    return place, known[place] == keys


def _hashes_of_few(
    texts: pa.Array, as_known: Callable[[pa.Array], pa.Array] = lambda texts: texts
) -> NDArray[np.int64]:
    """As hashes(), where many of ``texts`` are the same; of what ``as_known`` makes of each."""
    encoded = texts.dictionary_encode()
    known = np.append(hashes(as_known(encoded.dictionary)), 0)
    return known[np.asarray(pc.fill_null(encoded.indices, len(known) - 1))]


def _numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column, 0), np.int64)


def _given(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """As _numbers(), where 0 is a number like others."""
    return _numbers(pc.add(column, 1))


def _short(values: NDArray[np.int64]) -> NDArray[np.int32]:
    """32 bits of each, in half the memory: of numbers that differ, one in four billion does not."""
    return (values ^ (values >> 32)).astype(np.int32)


def _differ(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Where both are known (not 0) and not the same."""
    return (a != 0) & (b != 0) & (a != b)


def _refuse_duplicates(keys: NDArray[np.int64], manifest: Manifest, job: Settings) -> None:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(twice):
        return
    # Read again, only for the rows in question: what they are called, and if they really clash.
    wanted = np.unique(np.concatenate([order[twice], order[twice + 1]]))
    first_row: dict[str, int] = {}
    start = 0
    for rows in _expanded(manifest, job, None):
        inside = wanted[(wanted >= start) & (wanted < start + len(rows))]
        for place in inside.tolist():
            name = rows.column("_output_name")[place - start].as_py()
            row = place // job.variants + 1
            if name in first_row:
                raise RequestError(
                    f"{manifest.name}, column id: rows {first_row[name]} and {row} would both "
                    f"become '{name}'; every row needs an id of its own"
                )
            first_row[name] = row
        start += len(rows)
