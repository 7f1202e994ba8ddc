"""What the Prefect UI calls the runs, tags and artifacts of a job."""

from __future__ import annotations

import hashlib
import re

from pipeline.job import Job
from pipeline.url import absolute

# Letters that the UI takes of a name or a tag.
LONGEST = 100


def run_name(job: Job) -> str:
    """The style, the source and where the results go."""
    return _plain(f"{job.style}: {last_part(job.source)} to {last_part(job.out)}")


def tags_of(job: Job) -> list[str]:
    """By which runs and deployments are found: of a style, of a source, of a folder of results."""
    return [
        _plain(f"style:{job.style}"),
        _plain(f"source:{last_part(job.source)}"),
        job_tag(job.out),
    ]


def job_tag(out: str) -> str:
    """The tag of all runs that write to a folder."""
    return f"job:{_slug(out)}"


def artifact_key(kind: str, out: str) -> str:
    """Of a job's artifacts of a kind: those of one key are each other's history."""
    return f"{_slug(out)}-{kind}"


def _slug(out: str) -> str:
    """Of a folder: its name in the letters that keys may have, and what tells apart its equals."""
    name = re.sub(r"[^a-z0-9]+", "-", last_part(out).lower()).strip("-")
    digest = hashlib.sha256(absolute(out).encode()).hexdigest()[:6]
    return f"{name[:40]}-{digest}".lstrip("-")


def last_part(place: str) -> str:
    """Of a path or URL, what people know it by."""
    return place.rstrip("/").rsplit("/", 1)[-1] or place


def _plain(text: str) -> str:
    """Prefect's pages leave out what is not ASCII."""
    return text.encode("ascii", "replace").decode()[:LONGEST]
