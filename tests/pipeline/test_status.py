from __future__ import annotations

import json
import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.cli import main
from pipeline.claim import Claim
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.ledger import LEDGER_SCHEMA, Ledger
from pipeline.output import JobRecord, Output
from pipeline.status import PAUSE, WINDOW, Status, read_status
from pipeline.storage import Storage
from pipeline.styles.pack import find_pack
from pipeline.url import join
from tests.conftest import write_photos
from tests.pipeline.runs import changed, plan_job, run_job

SECOND = 1_700_000_000


def commit(out: str, shard: str, *rows: dict[str, Any]) -> None:
    digest = Output(Storage(), out).require_job().job_digest
    known = {
        "variant": 0, "status": "done", "attempts": 1, "source_uri": "/x", "style": "red",
        "strength": 1.0, "seed": 0, "model_digest": "m", "job_digest": digest, "shard": shard,
        "finished_at": SECOND * 1_000_000, "output_bytes": None,
    }  # fmt: skip
    records = [{"id": f"{shard}/{number}", **known, **row} for number, row in enumerate(rows)]
    Ledger(Storage(), out).commit(shard, pa.Table.from_pylist(records, schema=LEDGER_SCHEMA))


def bad(error_class: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "error_class": error_class, "error_message": message}


def begun(job: Job, rows: int) -> None:
    Output(Storage(), job.out).begin(job, find_pack(job.pack), pa.schema([]), rows, 0)


def status_of(*per_second: tuple[int, int]) -> Status:
    record = JobRecord(
        job={}, job_digest="", model_digest="", rows=0, carried={}, styles={}, versions={}
    )
    return Status(record, per_second=Counter(dict(per_second)))


@pytest.mark.parametrize("where", ["local", "s3"])
def test_figures_are_those_of_the_ledger(
    job: Job, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "s3":
        job = changed(job, out=join(request.getfixturevalue("s3"), "out"))
    begun(job, rows=10)
    commit(job.out, "one", {"output_bytes": 100}, {"output_bytes": 50, "style": "green"})
    commit(job.out, "two", {}, bad("input", "the file is empty"), bad("storage", "gone"))
    commit(job.out, "six", bad("input", "the file is empty"))
    status = read_status(Storage(), job.out)
    assert (status.job.rows, status.done, status.failed, status.left) == (10, 3, 3, 4)
    assert status.output_bytes == 150
    assert status.styles == {"red": 2, "green": 1}
    assert status.reasons == {"the file is empty": 2, "gone": 1}
    assert status.per_second == {SECOND: 6}
    assert status.job.job["style"] == "red"
    assert not status.succeeded


def test_a_job_that_has_begun_has_figures(job: Job) -> None:
    plan_job(job)
    status = read_status(Storage(), job.out)
    assert (status.job.rows, status.done, status.failed, status.left) == (8, 0, 0, 8)
    assert (status.rate, status.last_run(), status.output_bytes) == (0.0, {}, 0)


def test_a_job_that_has_ended_has_all_rows(job: Job) -> None:
    (Path(job.source) / "001.jpg").write_bytes(b"")
    summary = run_job(changed(job, max_failed=0.5))
    status = read_status(Storage(), job.out)
    assert (status.done, status.failed, status.left, status.succeeded) == (7, 1, 0, True)
    assert status.output_bytes == summary.output_bytes
    assert sum(status.per_second.values()) == 8
    assert abs(max(status.per_second) - time.time()) < 60


def test_rows_that_left_the_manifest_are_told(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(job)
    for name in ("000.jpg", "001.jpg"):
        (Path(job.source) / name).unlink()
    run_job(job)
    status = read_status(Storage(), job.out)
    assert (status.job.rows, status.done, status.left, status.job.gone) == (6, 8, 0, 2)
    main(["status", job.out])
    assert "8 of 8 stylized, 2 of earlier runs only, complete" in capsys.readouterr().out
    # As many as have gone are new: they are still to be done.
    write_photos(Path(job.source), 2, first=8)
    plan_job(job)
    main(["status", job.out])
    said = capsys.readouterr().out
    assert "8 of 10 stylized, 2 of earlier runs only, 2 left" in said
    assert "complete" not in said


def test_whether_a_run_is_at_work_is_told(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(changed(job, limit=4))
    claim = Claim(Storage(), job.out)
    claim.take()
    begun(job, rows=8)
    main(["status", job.out])
    said = " ".join(capsys.readouterr().out.split())
    assert "to go at that rate" in said
    assert f"at work: process {os.getpid()} on " in said
    claim.release()
    main(["status", job.out])
    said = " ".join(capsys.readouterr().out.split())
    assert "to go" not in said
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert f"no run is at work; the last one began at {today}" in said
    assert f"UTC, the last image was done at {today}" in said
    main(["status", job.out, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["done"], told["left"], told["at_work"]) == (8, 4, 4, "")
    assert told["styles"] == {"red": 4}


def test_rows_of_other_settings_are_not_done_yet(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(job)
    other = changed(job, quality=50, overwrite=True)
    plan_job(other)
    main(["status", job.out])
    assert "0 of 8 stylized, 8 left" in capsys.readouterr().out
    (Path(job.source) / "000.jpg").unlink()
    run_job(other)
    main(["status", job.out])
    assert "7 of 7 stylized, complete" in capsys.readouterr().out


def test_a_folder_without_a_job_is_refused(tmp_path: Path, s3: str) -> None:
    for place in (str(tmp_path), str(tmp_path / "none"), s3):
        with pytest.raises(RequestError, match=f"{place} is not the output folder of a job"):
            read_status(Storage(), place)


def test_a_ledger_that_is_damaged_is_refused(job: Job) -> None:
    begun(job, rows=2)
    commit(job.out, "one", {})
    Path(job.out, "metadata/two.parquet").write_bytes(b"no Parquet, but long enough for one")
    with pytest.raises(RequestError, match=r"two\.parquet"):
        read_status(Storage(), job.out)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    run = [(SECOND + second, 5) for second in range(100)]
    run += [(SECOND + second, 20) for second in range(100, 100 + WINDOW)]
    assert status_of(*run).rate == pytest.approx(20)


def test_the_last_run_is_known_by_its_beginning() -> None:
    rows = (SECOND, 1), (SECOND + 5, 2), (SECOND + 9, 3)
    status = status_of(*rows)
    status.job.began = SECOND + 3
    assert list(status.last_run().values()) == [2, 3]
    assert status.rate == pytest.approx(1)
    status.job.began = SECOND + 10  # it had nothing to do
    assert list(status.last_run().values()) == [1, 2, 3]


def test_seconds_without_a_row_count_too() -> None:
    assert status_of((SECOND, 10), (SECOND + 9, 10)).rate == pytest.approx(2)


def test_the_last_run_begins_after_the_last_long_pause() -> None:
    status = status_of(
        (SECOND, 1), (SECOND + PAUSE, 2), (SECOND + PAUSE + 5, 3), (SECOND + 2 * PAUSE + 4, 4)
    )  # fmt: skip
    assert list(status.last_run().values()) == [2, 3, 4]
    assert list(status_of((SECOND, 1)).last_run().values()) == [1]
