"""What a job has no use for any more is found, and removed when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli import main
from pipeline.claim import Claim
from pipeline.errors import RequestError
from pipeline.job import FOLDERS, Job
from pipeline.ledger import Ledger
from pipeline.prune import find_gone, prune
from pipeline.status import read_status
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import verify
from tests.conftest import write_photos
from tests.pipeline.runs import changed, ledger_of, run_job


@pytest.fixture(params=[*FOLDERS, "bucket"])
def done(request: pytest.FixtureRequest, job: Job) -> Job:
    """A job that has been done: eight photos, four in a shard."""
    if request.param == "bucket":
        job = changed(job, out=join(request.getfixturevalue("s3"), "out"), layout="webdataset")
    else:
        job = changed(job, layout=request.param)
    run_job(job)
    return job


def forget(job: Job, *numbers: int) -> None:
    """Take photos away."""
    for number in numbers:
        (Path(job.source) / f"{number:03d}.jpg").unlink()


def ids(job: Job) -> list[str]:
    return ledger_of(job.out)["id"].to_pylist()


def test_results_of_photos_that_have_gone_are_found_and_removed(done: Job) -> None:
    storage = Storage()
    before = {row["id"]: row["output_sha256"] for row in ledger_of(done.out).to_pylist()}
    forget(done, 1, 4, 5, 6, 7)
    found = find_gone(storage, done.out)
    assert (found.rows, found.kept, len(found.shards)) == (5, 3, 2)
    assert len(ids(done)) == 8
    removed = prune(storage, done.out)
    assert (removed.rows, removed.files) == (found.rows, found.files)
    assert ids(done) == ["000.jpg", "002.jpg", "003.jpg"]
    verdict = verify(storage, done.out, lambda rows: None)
    assert (verdict.findings, verdict.done, verdict.left) == ([], 3, 0)
    assert {row["id"]: row["output_sha256"] for row in ledger_of(done.out).to_pylist()} == {
        name: before[name] for name in ids(done)
    }
    assert len(Ledger(storage, done.out).shards()) == 1
    status = read_status(storage, done.out)
    assert (status.done, status.job.gone, status.succeeded) == (3, 0, True)
    assert (status.job.rows, status.left) == (3, 0)
    again = find_gone(storage, done.out)
    assert (again.rows, again.files) == (0, [])
    assert run_job(done).new_done == 0


def test_a_photo_that_comes_back_is_done_again(done: Job) -> None:
    forget(done, 2)
    prune(Storage(), done.out)
    write_photos(Path(done.source), 1, first=2)
    assert run_job(done).new_done == 1
    assert verify(Storage(), done.out, lambda rows: None).findings == []


def test_files_that_no_row_knows_of_go(job: Job) -> None:
    run_job(job)
    run_job(changed(job, format="png", overwrite=True))
    assert len(list(Path(job.out, "images").iterdir())) == 16
    gone = prune(Storage(), job.out)
    assert (gone.rows, len(gone.files)) == (0, 8)
    assert gone.bytes > 0
    left = {path.name for path in Path(job.out, "images").iterdir()}
    assert left == {f"{number:03d}.jpg.png" for number in range(8)}


def test_fewer_variants_leave_the_others_behind(job: Job) -> None:
    run_job(changed(job, style="red,green", variants=2))
    run_job(changed(job, style="red,green", overwrite=True))
    gone = prune(Storage(), job.out)
    assert (gone.rows, len(gone.files), gone.kept) == (8, 8, 8)


def test_what_a_limit_leaves_out_has_not_gone(job: Job) -> None:
    run_job(job)
    run_job(changed(job, limit=2))
    assert prune(Storage(), job.out).rows == 0
    status = read_status(Storage(), job.out)
    assert (status.job.rows, status.job.gone, status.left) == (2, 6, 0)


def test_a_source_without_images_makes_nothing_gone(job: Job) -> None:
    run_job(job)
    forget(job, *range(8))
    with pytest.raises(RequestError, match="no images; so nothing is taken for gone"):
        prune(Storage(), job.out)
    assert len(ids(job)) == 8


def test_not_while_a_run_is_at_work(job: Job) -> None:
    run_job(job)
    forget(job, 1)
    claim = Claim(Storage(), job.out)
    claim.take()
    try:
        assert find_gone(Storage(), job.out).rows == 1
        with pytest.raises(RequestError, match="process"):
            prune(Storage(), job.out)
    finally:
        claim.release()
    assert len(ids(job)) == 8


def test_from_the_command_line_it_asks_first(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(job)
    forget(job, 1)
    assert main(["prune", job.out]) == 0
    said = capsys.readouterr().out
    assert "1 of 8 rows" in said
    assert "images/001.jpg" in said
    assert f"restyle prune {job.out} --yes removes them" in said
    assert Path(job.out, "images", "001.jpg").exists()
    assert main(["prune", job.out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["images/001.jpg"]
    assert main(["prune", job.out, "--yes"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not Path(job.out, "images", "001.jpg").exists()
    assert main(["prune", job.out]) == 0
    assert "0 of 7 rows" in capsys.readouterr().out
