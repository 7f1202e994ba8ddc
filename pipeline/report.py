"""For the eyes: one page with originals beside results, figures and failures; a contact sheet."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader
from PIL import Image, ImageOps

from pipeline.codec import Pixels, decode
from pipeline.errors import RequestError, RowError
from pipeline.ledger import Ledger, result_source
from pipeline.manifest.tars import tar_source
from pipeline.output import Output
from pipeline.status import Status, read_status
from pipeline.storage import Source, Storage
from pipeline.text import plural, size, span
from pipeline.url import join

# Parts of the ledger that are looked through for examples.
PARTS_SAMPLED = 64

# Each example is in the page, some 50 KB. Where rows name blends of their own, nearly every row
# is a style.
EXAMPLES_PER_STYLE = 12
STYLES_SHOWN = 40
EXAMPLES_SHOWN = 240
FAILURES_SHOWN = 200

THUMBNAIL = 320  # width, pixels
TALLEST = 4  # times the width; of what is taller the middle is shown
MAX_PIXELS = 100_000_000

BARS = 120  # of the throughput plot


@dataclass(frozen=True)
class Example:
    """A result and its original, (H, W, 3) uint8 of one size."""

    row: dict[str, Any]
    photo: Pixels
    result: Pixels


def examples(storage: Storage, out: str, per_style: int, width: int) -> list[Example]:
    """Some results with their originals, of the most frequent styles in turn, spread over the job.

    Those that cannot be read any more are left out.

    Args:
        width: of the pictures, pixels.
    """
    chosen = _chosen(_done_rows(storage, out), per_style)[:EXAMPLES_SHOWN]
    return [found for row in chosen if (found := _example(storage, out, row, width))]


def _chosen(rows: list[dict[str, Any]], per_style: int) -> list[dict[str, Any]]:
    """Up to so many rows of each style: styles in turn, and of each the photo least seen so far."""
    by_style: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_style[row["style"]].append(row)
    frequent = sorted(by_style, key=lambda style: -len(by_style[style]))[:STYLES_SHOWN]
    waiting = [_spread(by_style[style], per_style) for style in sorted(frequent)]
    seen: Counter[str] = Counter()
    chosen: list[dict[str, Any]] = []
    while any(waiting):
        for of_style in filter(None, waiting):
            row = min(of_style, key=lambda row: seen[row["id"]])
            of_style.remove(row)
            seen[row["id"]] += 1
            chosen.append(row)
    return chosen


def _spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """``count`` of the rows, or all if there are fewer, at equal distances."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _example(storage: Storage, out: str, row: dict[str, Any], width: int) -> Example | None:
    height = round(width * row["output_height"] / row["output_width"])
    shape = (width, min(max(1, height), TALLEST * width))
    try:
        uri = row["source_uri"]
        source = tar_source(storage, uri) if uri.startswith("tar://") else Source(uri)
        photo = _picture(storage, source, shape)
        return Example(row, photo, _picture(storage, result_source(out, row), shape))
    except (RowError, RequestError):
        return None


def _done_rows(storage: Storage, out: str) -> list[dict[str, Any]]:
    """Rows that are done, of the job as it is now; of a large job from some parts of its ledger."""
    digest = Output(storage, out).require_job().job_digest
    ledger = Ledger(storage, out)
    shards = ledger.shards()
    columns = ["id", "style", "strength", "source_uri", "output_uri", "output_offset",
               "output_bytes", "output_width", "output_height"]  # fmt: skip
    rows: list[dict[str, Any]] = []
    sampled = shards[:: max(1, len(shards) // PARTS_SAMPLED)][:PARTS_SAMPLED]
    for batch in ledger.scan_job(digest, [*columns, "status"], sampled):
        done = batch.filter(pc.equal(batch.column("status"), "done"))
        rows += done.select(columns).to_pylist()
    return rows


def _picture(storage: Storage, source: Source, shape: tuple[int, int]) -> Pixels:
    (data,) = storage.read([source])
    if isinstance(data, RowError):
        raise data
    return decode(data, shape, MAX_PIXELS).pixels


def contact_sheet(storage: Storage, out: str, columns: int = 6, side: int = 160) -> bytes | None:
    """A JPEG with originals above and results below, or None if there are none yet."""
    chosen = _chosen(_done_rows(storage, out), columns)[:columns]
    shown = [found for row in chosen if (found := _example(storage, out, row, side))]
    if not shown:
        return None
    sheet = Image.new("RGB", (side * len(shown), 2 * side))
    for column, example in enumerate(shown):
        for row, pixels in enumerate((example.photo, example.result)):
            square = ImageOps.fit(Image.fromarray(pixels), (side, side), Image.Resampling.LANCZOS)
            sheet.paste(square, (side * column, side * row))
    return _jpeg(np.asarray(sheet))


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A picture as the address of itself, so that a page needs no other file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def write_report(storage: Storage, out: str) -> str:
    """Write OUT/report.html, one file that needs no other; its URL.

    Raises:
        RequestError: there is no job in ``out``.
    """
    status = read_status(storage, out)
    pictures = [
        {**e.row, "photo": data_uri(_jpeg(e.photo)), "result": data_uri(_jpeg(e.result))}
        for e in examples(storage, out, EXAMPLES_PER_STYLE, THUMBNAIL)
    ]
    page = Environment(
        loader=PackageLoader("pipeline", "templates"), autoescape=True, trim_blocks=True
    )
    page.filters |= {"span": span, "size": size, "plural": plural}
    shown = {picture["style"] for picture in pictures}
    bars = _bars(status)
    html = page.get_template("report.html").render(
        status=status,
        pictures=pictures,
        styles=sorted(shown, key=lambda style: (-status.styles[style], style)),
        failures=_failures(storage, out, status.job.job_digest, min(status.failed, FAILURES_SHOWN)),
        bars=bars,
        average=sum(status.last_run().values()) / bars[-1].end if bars else 0.0,
    )
    url = join(out, "report.html")
    storage.write({url: html.encode()})
    return url


def _failures(storage: Storage, out: str, digest: str, count: int) -> list[dict[str, Any]]:
    """The first ``count`` failed rows of a job; little more of the ledger is read than it takes."""
    columns = ["id", "source_uri", "error_class", "error_stage", "error_message", "attempts"]
    failures: list[dict[str, Any]] = []
    batches = Ledger(storage, out).scan_job(digest, [*columns, "status"])
    while len(failures) < count and (batch := next(batches, None)) is not None:
        failed = batch.filter(pc.equal(batch.column("status"), "failed"))
        failures += failed.select(columns).to_pylist()
    return failures[:count]


@dataclass(frozen=True)
class Bar:
    """Images finished a second, over a stretch of the last run; times in seconds from its start."""

    start: float
    end: float
    rate: float


def _bars(status: Status) -> list[Bar]:
    run = status.last_run()
    if not run:
        return []
    first, seconds = min(run), max(run) - min(run) + 1
    width = max(1, -(-seconds // BARS))
    counts = np.zeros(-(-seconds // width))
    for second, n in run.items():
        counts[(second - first) // width] += n
    ends = [min((index + 1) * width, seconds) for index in range(len(counts))]
    return [
        Bar(index * width, end, n / (end - index * width))
        for index, (end, n) in enumerate(zip(ends, counts.tolist(), strict=True))
    ]
