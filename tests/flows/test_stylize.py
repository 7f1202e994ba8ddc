"""The flow against a real Prefect API, with real workers."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from prefect.flows import load_flow_from_entrypoint

from flows.cli import main
from flows.stylize import stylize
from pipeline.job import Job
from pipeline.ledger import Ledger
from pipeline.results import Summary
from pipeline.storage import Storage, retry
from tasks.names import artifact_key, tags_of
from tasks.progress import Snapshot, watcher
from tests.conftest import open_image, write_photos
from tests.pipeline.runs import manifest, plan_job
from tests.pipeline.servers import forward, serving

pytestmark = pytest.mark.usefixtures("prefect")


def ledger(job: Job) -> list[dict[str, Any]]:
    groups = Ledger(Storage(), job.out).read_parts()
    return [row for group in groups for _, part in group for row in part.to_pylist()]


def run(job: Job) -> tuple[Summary, Any]:
    state = stylize(job, return_state=True)
    return state.result(raise_on_failure=False), state


def ask(api: str, what: str, **body: Any) -> list[dict[str, Any]]:
    return httpx.post(f"{api}/{what}/filter", json=body).raise_for_status().json()


def test_a_job_from_beginning_to_end(job: Job, prefect: str) -> None:
    photos = Path(job.source)
    (photos / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    seen: list[Snapshot] = []
    token = watcher.set(seen.append)
    try:
        summary, state = run(job.model_copy(update={"max_failed": 0.2}))
    finally:
        watcher.reset(token)

    assert state.is_completed()
    assert state.message == "8 of 9 stylized, 1 failed"
    rows = ledger(job)
    assert len(rows) == 9
    assert {row["id"] for row in rows if row["status"] == "failed"} == {"page.jpg"}
    for row in rows:
        if row["status"] == "done":
            assert open_image((Path(job.out) / row["output_uri"]).read_bytes()).shape == (64, 64, 3)
    assert (Path(job.out) / "_SUCCESS").exists()
    assert not (Path(job.out) / ".restyle").exists()
    assert (seen[-1].done, seen[-1].failed) == (8, 1)
    assert summary.images_per_second > 0

    run_id = state.state_details.flow_run_id
    this_run = {"flow_runs": {"id": {"any_": [str(run_id)]}}}
    (flow_run,) = ask(prefect, "flow_runs", **this_run)
    assert sorted(flow_run["tags"]) == sorted(tags_of(job))
    assert flow_run["name"] == "red: photos to out"
    task_runs = ask(prefect, "task_runs", **this_run)
    names = {task_run["name"] for task_run in task_runs}
    assert names == {"plan", "shard 1, 4 images", "shard 2, 4 images", "shard 3, 1 images",
                     "finish"}  # fmt: skip
    # A tag would make them ask the server for leave to begin.
    assert not any(task_run["tags"] for task_run in task_runs)
    artifacts = {a["key"]: a for a in ask(prefect, "artifacts", **this_run)}
    assert artifacts[artifact_key("progress", job.out)]["data"] == 100
    (failure,) = artifacts[artifact_key("failures", job.out)]["data"].splitlines()[2:]
    assert failure.startswith("| page.jpg | not an image but a web page | decode | input |")
    page = artifacts[artifact_key("summary", job.out)]["data"]
    assert "a web page" in page
    assert "data:image/jpeg;base64," in page
    assert len(page) < 400_000


def test_the_same_job_again_does_nothing_and_new_photos_only_are_done(job: Job) -> None:
    run(job)
    before = {row["id"]: row["finished_at"] for row in ledger(job)}

    summary, state = run(job)
    assert state.is_completed()
    assert "nothing was left to do" in state.message
    assert summary.new_done == 0

    write_photos(Path(job.source), 3, first=8)
    summary, _ = run(job)
    assert (summary.new_done, summary.done) == (3, 11)
    after = {row["id"]: row["finished_at"] for row in ledger(job)}
    assert len(after) == 11
    assert before.items() <= after.items()


def test_too_many_bad_images_fail_the_run_but_the_good_ones_are_done(job: Job) -> None:
    for number in range(2):
        (Path(job.source) / f"bad{number}.jpg").write_bytes(b"no image")
    _, state = run(job)
    assert state.is_failed()
    assert state.message == "8 of 10 stylized, 2 failed: more than 5% of the rows (--max-failed)"
    assert not (Path(job.out) / "_SUCCESS").exists()
    assert sum(row["status"] == "done" for row in ledger(job)) == 8


def test_a_run_that_is_done_stays_done_without_its_page(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*args: Any, **options: Any) -> None:
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr("tasks.artifacts.create_markdown_artifact", away)
    summary, state = run(job)
    assert state.is_completed()
    assert summary.done == 8
    assert "the UI has no page about this run: nobody there" in caplog.text


def test_a_wrong_row_is_told_in_a_line_and_by_an_exit_code(
    job: Job, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A schedule meets it every night."""
    wrong = manifest(job, ["000.jpg", "001.jpg"], id=["a", "a"])
    state = stylize(wrong, return_state=True)
    assert state.is_failed()
    assert "rows 1 and 2 would both become 'a.jpg'" in str(state.message)
    assert "Traceback" not in caplog.text
    flags = ["--style", "red", "--pack", job.pack, "--size", "64", "--device", "cpu"]
    assert main(["run", wrong.source, "--out", job.out, *flags]) == 2
    assert "rows 1 and 2 would both become 'a.jpg'" in capsys.readouterr().err
    assert not Path(job.out).exists()


def test_a_fault_of_the_system_stops_the_run_and_blames_no_image(job: Job) -> None:
    plan_job(job)
    Path(job.out, "images").write_text("in the way")
    _, state = run(job)
    assert state.is_failed()
    assert "stopped: cannot write" in state.message
    assert ledger(job) == []


def test_a_bucket_that_stays_away_stops_the_run_and_is_what_is_told(
    job: Job, s3: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"PATIENCE": 2.0, "FIRST_DELAY": 0.01}
    for name, value in settings.items():
        monkeypatch.setattr(retry, name, value)
    site = tmp_path / "sitecustomize.py"  # for the workers
    site.write_text(f"from pipeline.storage import retry\nvars(retry).update({settings})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(forward(s3_server)) as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)

        committed = Ledger(Storage({"endpoint_url": s3_server}), f"{s3}/out")

        def take_away(snapshot: Snapshot) -> None:
            if committed.shards():
                bucket.away_until = math.inf

        token = watcher.set(take_away)
        try:
            summary, state = run(job.model_copy(update={"out": f"{s3}/out", "shard_size": 1}))
        finally:
            watcher.reset(token)
    assert state.is_failed()
    assert "of 8 stylized; stopped: " in state.message
    assert "Connection was closed" in state.message
    assert 1 <= summary.done < 8
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    assert len(ledger(job.model_copy(update={"out": f"{s3}/out"}))) >= summary.done


def test_a_run_whose_folder_another_has_taken_over_stops(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.claim.RENEWED_EVERY", 0.1)
    write_photos(Path(job.source), 600)
    theirs = json.dumps({"host": "elsewhere", "pid": 7, "token": "another"})
    token = watcher.set(
        lambda seen: seen.done and Path(job.out, ".restyle-claim").write_text(theirs)
    )
    start = time.monotonic()
    try:
        _, state = run(job.model_copy(update={"size": "256", "shard_size": 20}))
    finally:
        watcher.reset(token)
    assert state.is_failed()
    assert "another run has taken over" in state.message
    assert "process 7 on elsewhere" in state.message
    assert len(ledger(job)) < 600
    assert time.monotonic() - start < 30
    assert Path(job.out, ".restyle-claim").read_text() == theirs


def test_a_deployment_gives_the_job_as_json_and_the_ui_shows_it_as_a_form(job: Job) -> None:
    loaded = load_flow_from_entrypoint("flows/stylize.py:stylize")
    parameters = loaded.validate_parameters({"job": json.loads(job.model_dump_json())})
    assert parameters["job"].model_dump() == job.model_dump()
    (form,) = loaded.parameters.definitions.values()
    assert form["required"] == ["out", "style", "source"]
    assert form["properties"]["shard_size"]["default"] == "auto"
    assert "Folder or URL" in form["properties"]["out"]["description"]


def test_from_s3_to_s3_with_columns_carried_through(job: Job, s3: str, tmp_path: Path) -> None:
    import pyarrow as pa

    storage = Storage()
    photos = sorted(Path(job.source).iterdir())
    storage.write({f"{s3}/in/{photo.name}": photo.read_bytes() for photo in photos})
    table = pa.table(
        {
            "uri": [photo.name for photo in photos],
            "label": [number % 3 for number in range(8)],
            "box": [[0.5, float(number)] for number in range(8)],
        }
    )
    manifest = tmp_path / "m.parquet"
    pq.write_table(table, manifest)
    storage.write({f"{s3}/in/m.parquet": manifest.read_bytes()})

    there = job.model_copy(update={"source": f"{s3}/in/m.parquet", "out": f"{s3}/out"})
    _, state = run(there)
    assert state.message == "8 of 8 stylized"
    rows = {row["id"]: row for row in ledger(there)}
    assert len(rows) == 8
    for number, photo in enumerate(photos):
        row = rows[photo.name]
        assert (row["label"], row["box"]) == (number % 3, [0.5, float(number)])
        data = storage.read_one(f"{s3}/out/{row['output_uri']}")
        assert open_image(data or b"").shape == (64, 64, 3)
    text = (storage.read_one(f"{s3}/out/job.json") or b"").decode()
    assert "testing" not in text
    assert "nothing was left" in run(there)[1].message
