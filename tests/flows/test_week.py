"""A job every night for a week: the ledger and the UI tell the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.stylize import stylize
from pipeline.job import Job
from pipeline.results import Summary
from tasks.names import artifact_key, job_tag
from tests.conftest import jpeg, write_photos
from tests.pipeline.runs import changed, ledger_of


def nights(photos: Path, size: int = 64) -> Iterator[tuple[int, int]]:
    """Prepare the photos of one night after the other; what its run has to do, and what fails."""
    write_photos(photos, 12, size=size)
    yield 12, 0
    write_photos(photos, 3, first=12, size=size)
    yield 3, 0
    for number in (2, 5):
        (photos / f"{number:03d}.jpg").write_bytes(jpeg(size, size, 100 + number))
    yield 2, 0
    write_photos(photos, 2, first=15, size=size)
    (photos / "download.jpg").write_bytes(b"<!DOCTYPE html>")
    yield 2, 1
    yield 0, 0
    (photos / "000.jpg").unlink()
    write_photos(photos, 3, first=17, size=size)
    yield 3, 0
    (photos / "download.jpg").write_bytes(jpeg(size, size, 200))
    yield 1, 0


@pytest.mark.extra
def test_the_ledger_and_the_ui_tell_the_same_story(job: Job, prefect: str, tmp_path: Path) -> None:
    job = changed(job, source=str(tmp_path / "bucket"), max_failed=0.2, workers=1)
    story = []
    for new_done, new_failed in nights(Path(job.source)):
        state = stylize(job, return_state=True)
        summary = state.result(raise_on_failure=False)
        assert isinstance(summary, Summary), summary
        assert (summary.new_done, summary.new_failed) == (new_done, new_failed)
        told = Counter(ledger_of(job.out).column("status").to_pylist())
        there = {str(path.name) for path in Path(job.source).iterdir()}
        rows = [row for row in ledger_of(job.out).to_pylist() if row["id"] in there]
        assert len(rows) == len(there) == summary.rows == summary.done + summary.failed
        assert Counter(row["status"] for row in rows)["failed"] == summary.failed == told["failed"]
        story.append(state.message)

    runs = httpx.post(
        f"{prefect}/flow_runs/filter",
        json={"flow_runs": {"tags": {"all_": [job_tag(job.out)]}}, "sort": "START_TIME_ASC"},
    ).json()
    assert [run["state"]["message"] for run in runs] == story
    pages = httpx.post(
        f"{prefect}/artifacts/filter",
        json={
            "artifacts": {"key": {"any_": [artifact_key("summary", job.out)]}},
            "sort": "CREATED_DESC",
        },
    ).json()
    assert [page["description"] for page in reversed(pages)] == story
    for message in story[:-1]:
        assert message in pages[0]["data"]
