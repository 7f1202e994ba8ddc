"""Whether the results are what the ledger says: every byte of them is read again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.claim import Claim
from pipeline.codec import decode
from pipeline.errors import RowError
from pipeline.job import FOLDERS
from pipeline.layouts.packed import FileDigest, packed_in
from pipeline.ledger import DamagedPart, Ledger, result_source, row_keys
from pipeline.manifest.listings import files_below
from pipeline.output import Output
from pipeline.overlap import ahead, chunks
from pipeline.plan import contains, hashes
from pipeline.storage import ABSENT, Storage, told
from pipeline.url import join

# Results that are fetched together, and how many such groups at a time.
CHUNK, THREADS = 64, 4

# Files that are looked up together.
LISTED = 1024

COLUMNS = ("id", "variant", "status", "output_uri", "output_offset", "output_bytes",
           "output_sha256", "shard")  # fmt: skip

AROUND = "what lies around it, such as its labels, is not what was written"

Kind = Literal["missing", "damaged", "doubled", "ledger", "extra"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Args:
        kind: ``missing``: a result that is not there. ``damaged``: one that is not what was
            written. ``doubled``: a row that stands in the ledger once more. ``ledger``: a part of
            the ledger that cannot be read. ``extra``: a file that no row knows of.
        path: below the output folder. why: for a person. shard: whose part it is in.
        row: id and variant.
    """

    kind: Kind
    path: str
    why: str
    shard: str = ""
    row: tuple[str, int] = ("", 0)


@dataclass
class Verdict:
    """What was found.

    Args:
        job: its settings. rows, gone: as in JobRecord. done, failed: in the ledger. older: of
            these, rows of earlier settings, which the job has not done again yet.
    """

    job: dict[str, Any]
    rows: int
    gone: int
    done: int = 0
    failed: int = 0
    older: int = 0
    output_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Rows that the job has yet to do."""
        return max(0, self.rows + self.gone - (self.done + self.failed - self.older))

    @property
    def wrong(self) -> list[Finding]:
        """What a repair would mend. Files that no row knows of harm nothing, and stay."""
        return [finding for finding in self.findings if finding.kind != "extra"]


def verify(storage: Storage, out: str, on_progress: Callable[[int], None]) -> Verdict:
    """Compare the results in the folder ``out`` with its ledger.

    Args:
        out: in full. on_progress: is told how many results were looked at.

    Raises:
        RequestError: there is no job. SystemFault: the storage does not answer.
    """
    record = Output(storage, out).require_job()
    ledger = Ledger(storage, out)
    verdict = Verdict(record.job, record.rows, record.gone)
    rows: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    outputs: list[NDArray[np.int64]] = [np.empty(0, np.int64)]

    def looks() -> Iterator[Look]:
        """At rows that are done, some at a time; everything is counted on the way."""
        for shard, part in chain.from_iterable(ledger.read_parts()):
            if isinstance(part, DamagedPart):
                path = f"metadata/{shard}.parquet"
                verdict.findings.append(Finding("ledger", path, str(part), shard))
                continue
            is_done = pc.equal(part.column("status"), "done")
            done = part.filter(is_done).select(COLUMNS)
            verdict.done += len(done)
            verdict.failed += len(part) - len(done)
            is_older = pc.not_equal(part.column("job_digest"), record.job_digest)
            verdict.older += pc.sum(is_older).as_py() or 0
            verdict.output_bytes += pc.sum(done.column("output_bytes")).as_py() or 0
            rows.append(_row_hashes(part))
            outputs.append(hashes(done.column("output_uri")))
            for batch in done.filter(pc.is_null(done["output_offset"])).to_batches(CHUNK):
                yield partial(_look_at, storage, out, batch.to_pylist())
            for uri in packed_in(done):
                inside = done.filter(pc.equal(done["output_uri"], uri)).sort_by("output_offset")
                yield partial(_look_into, storage, out, uri, inside.to_pylist())

    seen = 0
    with ThreadPoolExecutor(THREADS, "verify") as pool:
        for count, findings in ahead(pool, lambda look: look(), looks(), 2 * THREADS):
            verdict.findings += findings
            seen += count
            on_progress(seen)
    verdict.findings += _doubled(ledger, np.concatenate(rows))
    verdict.findings += [
        Finding("extra", path, "no row of the ledger has made it")
        for path, _ in unknown_files(storage, out, np.sort(np.concatenate(outputs)))
    ]
    return verdict


# Says how many results it was at, and what is wrong with them.
Look = Callable[[], tuple[int, list[Finding]]]


def _look_at(storage: Storage, out: str, rows: list[dict[str, Any]]) -> tuple[int, list[Finding]]:
    """At results that are files of their own."""
    findings = []
    sources = [result_source(out, row) for row in rows]
    for row, got in zip(rows, storage.read(sources), strict=True):
        why = got.message if isinstance(got, RowError) else _damage(row, got)
        if why:
            findings.append(_finding(row, why))
    return len(rows), findings


def _look_into(
    storage: Storage, out: str, uri: str, rows: list[dict[str, Any]]
) -> tuple[int, list[Finding]]:
    """At results that lie in one file, in this order, and at what lies around them.

    Raises:
        SystemFault: it is there, and cannot be read.
    """
    url = join(out, uri)
    fs, path = storage.open(url)
    findings = []
    with told("cannot read", url):
        try:
            with fs.open(path, "rb") as file:
                digest = FileDigest(file)
                for row in rows:
                    digest.skip_to(row["output_offset"])
                    if why := _damage(row, digest.read(row["output_bytes"])):
                        findings.append(_finding(row, why))
                if not findings and f"-{digest.at_end()}." not in uri:
                    findings = [_finding(row, AROUND) for row in rows]
        except FileNotFoundError:
            findings = [_finding(row, ABSENT) for row in rows]
    return len(rows), findings


def _finding(row: dict[str, Any], why: str) -> Finding:
    kind: Kind = "missing" if why == ABSENT else "damaged"
    return Finding(kind, row["output_uri"], why, row["shard"], (row["id"], row["variant"]))


def _damage(row: dict[str, Any], data: bytes) -> str:
    """What is wrong with a result, or nothing."""
    if len(data) != row["output_bytes"]:
        return f"it has {len(data):,} bytes, but {row['output_bytes']:,} were written"
    if hashlib.sha256(data).hexdigest() != row["output_sha256"]:
        return "its bytes are not those that were written"
    try:
        decode(data, None, 2**62)
    except RowError as error:
        return error.message
    return ""


def _doubled(ledger: Ledger, keys: NDArray[np.int64]) -> Iterator[Finding]:
    """Rows that stand in the ledger more than once, but for the one that was finished last."""
    ordered = np.sort(keys)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return
    times: dict[tuple[str, int], list[tuple[Any, str, str]]] = {}
    for batch in ledger.scan([*COLUMNS, "finished_at"]):
        table = pa.Table.from_batches([batch])
        suspects = table.filter(pa.array(np.isin(_row_hashes(table), twice)))
        for row in suspects.to_pylist():
            seen = times.setdefault((row["id"], row["variant"]), [])
            seen.append((row["finished_at"], row["shard"], row["output_uri"] or ""))
    for key, seen in times.items():
        for _, shard, path in sorted(seen)[:-1]:
            yield Finding("doubled", path, f"{key[0]} stands in the ledger twice", shard, key)


def unknown_files(
    storage: Storage, out: str, known: NDArray[np.int64]
) -> Iterator[tuple[str, int | None]]:
    """Files among the results that are not ``known``: paths below ``out``, and bytes.

    Args:
        known: hashes() of paths, in order.
    """
    for folder in sorted(set(FOLDERS.values())):
        with suppress(FileNotFoundError):  # nothing was done yet
            for files in chunks(files_below(storage, join(out, folder)), LISTED):
                paths = [file.uri[len(out) + 1 :] for file in files]
                for path, file, is_known in zip(
                    paths, files, contains(known, hashes(pa.array(paths))), strict=True
                ):
                    if not is_known:
                        yield path, file.size


def _row_hashes(rows: pa.Table) -> NDArray[np.int64]:
    variants = rows.column("variant").cast(pa.string())
    return hashes(pc.binary_join_element_wise(rows.column("id"), variants, "\0"))


def put_aside(storage: Storage, out: str, wrong: list[Finding]) -> None:
    """Mark rows whose results are not right as failed, so that the next run does them again.

    A row that is doubled loses its older entry; a part of the ledger that cannot be read is
    removed, and its rows are new again.

    Raises:
        RequestError: a run works on the folder. SystemFault: the ledger cannot be written.
    """
    claim = Claim(storage, out)
    claim.take()
    try:
        ledger = Ledger(storage, out)
        by_shard: dict[str, list[Finding]] = {}
        for finding in wrong:
            by_shard.setdefault(finding.shard, []).append(finding)
        for shard, findings in by_shard.items():
            if any(finding.kind == "ledger" for finding in findings):
                storage.delete(ledger.part_url(shard))
            elif (part := ledger.read_part(shard)) is not None:
                ledger.commit(shard, _corrected(part, findings))
    finally:
        claim.release()


def not_mended(storage: Storage, out: str) -> list[str]:
    """Ids of rows that were put aside and have not been done again since."""
    left: list[str] = []
    for rows in Ledger(storage, out).scan(["id", "error_stage"]):
        left += rows.filter(pc.equal(rows.column("error_stage"), "verify")).column("id").to_pylist()
    return left


def _corrected(part: pa.Table, findings: list[Finding]) -> pa.Table:
    older = {finding.row for finding in findings if finding.kind == "doubled"}
    why = {finding.row: finding.why for finding in findings if finding.kind != "doubled"}
    keys = row_keys(part)
    wrong = pa.array([key in why for key in keys])
    changes: dict[str, Any] = {
        "status": "failed",
        "error_class": "storage",  # so that it is tried again without being asked
        "error_stage": "verify",
        "error_message": pa.array([why.get(key) for key in keys], pa.string()),
        **dict.fromkeys(name for name in part.column_names if name.startswith("output_")),
    }
    for name, value in changes.items():
        index = part.column_names.index(name)
        kind = part.schema.field(index)
        value = value if isinstance(value, pa.Array) else pa.scalar(value, kind.type)
        part = part.set_column(index, kind, pc.if_else(wrong, value, part.column(name)))
    return part.filter(pa.array([key not in older for key in keys]))
