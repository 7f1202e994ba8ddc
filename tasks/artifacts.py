"""What a run shows in the Prefect UI besides its timeline."""

from __future__ import annotations

import html
import io
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from urllib.parse import quote
from uuid import UUID

import httpx
from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from pipeline.errors import RequestError, SystemFault
from pipeline.report import contact_sheet, data_uri
from pipeline.results import Failure, ShardResult, Summary
from pipeline.run import Request
from pipeline.text import plural, size, span
from pipeline.url import WEB_SCHEMES, describe, redact_url
from tasks.history import runs_before
from tasks.names import artifact_key

# Seconds between two updates of the progress artifact: each is a request to the API.
UPDATE_EVERY = 2.0

FAILURES_SHOWN = 50

# Pixels; the API takes half a megabyte, as text.
PREVIEW_WIDTH, PREVIEW_HEIGHT = 1000, 2400


class ProgressArtifact:
    """A bar in the UI that moves while the run goes on; made when there is something to show.

    Args:
        key: of the artifact; those of one key are each other's history.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None
        self._updated = 0.0

    def show(self, percent: float, text: str, last: bool = False) -> None:
        """Show how far the run is, 0 to 100; does nothing if it was shown a moment ago."""
        now = time.monotonic()
        if not last and now - self._updated < UPDATE_EVERY:
            return
        self._updated = now
        progress = round(percent, 1)
        with suppress(httpx.HTTPError, PrefectException):  # it is shown again soon
            if self._id is None:
                made = create_progress_artifact(progress, key=self._key, description=text)
                self._id = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self._id, progress, description=text)


def publish_preview(sheet: Image.Image, text: str) -> None:
    """What the styles of a training run make of some photos by now."""
    small = sheet.copy()
    small.thumbnail((PREVIEW_WIDTH, PREVIEW_HEIGHT))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    page = f"{text}\n\n![photos above, paintings on the left]({data_uri(buffer.getvalue())})"
    create_markdown_artifact(page, key="train-preview", description=text)


def publish_summary(request: Request, summary: Summary) -> None:
    """A page about the run with a small contact sheet, and one of what failed.

    A run that is done stays done where the API cannot take them.
    """
    try:
        _publish(request, summary)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("the UI has no page about this run: %s", describe(error))


def _publish(request: Request, summary: Summary) -> None:
    create_markdown_artifact(
        _summary_page(request, summary),
        key=artifact_key("summary", summary.out),
        description=str(summary),
    )
    if summary.failures:
        shown = summary.failures[:FAILURES_SHOWN]
        create_markdown_artifact(
            failures_table(shown, request.job.options),
            key=artifact_key("failures", summary.out),
            description=f"{len(shown)} of {plural(summary.new_failed, 'failure')} of this run",
        )


def failures_table(failures: Iterable[Failure], options: Mapping[str, str]) -> str:
    """What failed and why, as markdown, with links to the sources that a browser can show.

    Args:
        options: of the job's storage, as Settings.options.
    """
    lines = [_row(["image", "why", "stage", "kind", "source"]), "|---|---|---|---|---|"]
    for f in failures:
        source, page = _cell(f.source_uri), page_of(f.source_uri, options)
        lines += [_row([_cell(f.id), _cell(f.message), f.stage, f.error_class,
                        f"[{source}]({page})" if page else source])]  # fmt: skip
    return "\n".join(lines)


def page_of(uri: str, options: Mapping[str, str]) -> str:
    """Where a browser shows an image, if anywhere: an object of S3 in Amazon's console, or at its
    endpoint; no file of this machine, which a page from elsewhere must not open."""
    scheme, _, path = uri.partition("://")
    if scheme in WEB_SCHEMES:
        return quote(uri, safe="/:%?&=")
    if scheme not in ("s3", "s3a"):
        return ""
    bucket, _, key = path.partition("/")
    bucket = quote(bucket, safe="")
    endpoint = options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        return f"{redact_url(endpoint).rstrip('/')}/{bucket}/{quote(key)}"
    return f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key, safe='')}"


def _summary_page(request: Request, summary: Summary) -> str:
    job = request.job
    lines = [f"`{request.manifest.name}` → `{redact_url(job.out)}`", ""]
    with suppress(RequestError, SystemFault):  # what stopped a run is told without pictures, too
        if sheet := contact_sheet(request.storage, job.out):
            lines += [f"![originals above, results below]({data_uri(sheet)})", ""]
    lines += [
        f"| style | {_cell(job.style)} |",
        "|---|---:|",
        f"| stylized in this run | {summary.new_done:,} |",
        f"| failed in this run | {summary.new_failed:,} |",
        *([f"| brought up to date | {summary.updated:,} |"] if summary.updated else []),
        f"| time | {span(summary.seconds)} |",
        f"| images a second | {summary.images_per_second:,.1f} |",
        f"| read | {size(summary.source_bytes)} |",
        f"| written | {size(summary.output_bytes)} |",
        f"| shards | {summary.shards:,} |",
        "",
    ]
    if summary.reasons:
        lines += ["## Why images failed", "", "| images | reason |", "|---:|---|"]
        lines += [f"| {n:,} | {_cell(why)} |" for why, n in summary.reasons.most_common(10)]
        lines += [""]
    if len(summary.slowest) > 1:
        lines += ["## The slowest shards", "", "| shard | images | seconds | images a second |",
                  "|---|---:|---:|---:|"]  # fmt: skip
        lines += [_shard(shard) for shard in summary.slowest] + [""]
    if busy := {name: s for name, s in summary.stages.items() if name != "wall"}:
        lines += ["## Where the time went", "", "Seconds that each stage was busy, over all "
                  "workers and threads.", ""]  # fmt: skip
        lines += [_row(busy), _row(["---:"] * len(busy)), _row(f"{s:,.1f}" for s in busy.values())]
        lines += [""]
    if before := runs_before(summary.out):
        lines += ["## The runs before", "", "| ended (UTC) | took | |", "|---|---:|---|"]
        lines += [f"| {run.when} | {span(run.seconds)} | {_cell(run.outcome)} |" for run in before]
    return "\n".join(lines)


def _shard(shard: ShardResult) -> str:
    rows = shard.done + shard.failed
    return _row([f"`{shard.key}`", f"{rows:,}", f"{shard.wall:,.1f}", f"{shard.rate:,.1f}"])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that stays in its cell of a markdown table and is nothing but text."""
    line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([|\[\]*_~\\])", r"\\\1", line).replace("`", "'")
