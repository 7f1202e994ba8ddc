"""The ledger against the results."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.claim import Claim
from pipeline.errors import RequestError
from pipeline.job import FOLDERS, Job
from pipeline.ledger import Ledger
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import Finding, Verdict, put_aside, verify
from tests.pipeline.runs import changed, ledger_of, plan_job, run_job


def look(job: Job) -> Verdict:
    return verify(Storage(), job.out, lambda rows: None)


def told(verdict: Verdict) -> set[tuple[str, str]]:
    return {(finding.kind, finding.path) for finding in verdict.findings}


def only(verdict: Verdict) -> Finding:
    (finding,) = verdict.findings
    return finding


@pytest.fixture(params=["disk", "bucket"])
def done(request: pytest.FixtureRequest, job: Job) -> Job:
    """A job that has been done, but for one bad image."""
    if request.param == "bucket":
        job = changed(job, out=join(request.getfixturevalue("s3"), "out"))
    (Path(job.source) / "007.jpg").write_bytes(b"no image")
    run_job(job)
    return job


def mend(job: Job) -> None:
    put_aside(Storage(), job.out, look(job).wrong)
    run_job(job)


def test_a_job_that_is_as_it_was_left(done: Job) -> None:
    seen: list[int] = []
    verdict = verify(Storage(), done.out, seen.append)
    assert (verdict.rows, verdict.done, verdict.failed, verdict.left) == (8, 7, 1, 0)
    assert verdict.findings == []
    assert verdict.output_bytes == sum(
        len(Storage().read_one(join(done.out, "images", f"00{n}.jpg")) or b"") for n in range(7)
    )
    assert seen[-1] == 7


def test_rows_of_earlier_settings_are_left_to_be_done(done: Job) -> None:
    plan_job(changed(done, style="green", overwrite=True))
    verdict = look(done)
    assert (verdict.done, verdict.failed, verdict.older, verdict.left) == (7, 1, 8, 8)
    assert verdict.findings == []


def test_what_is_missing_damaged_or_extra_is_found_and_mended(done: Job) -> None:
    storage = Storage()
    before = ledger_of(done.out)
    images = {n: join(done.out, "images", f"00{n}.jpg") for n in range(7)}
    good = {n: storage.read_one(url) or b"" for n, url in images.items()}
    storage.delete(images[0])
    flipped = bytearray(good[1])
    flipped[len(flipped) // 2] ^= 1
    storage.write({
        images[1]: bytes(flipped),
        images[2]: good[2][:-1],
        join(done.out, "images", "deep", "other.jpg"): b"?",
    })  # fmt: skip
    verdict = look(done)
    assert told(verdict) == {
        ("missing", "images/000.jpg"),
        ("damaged", "images/001.jpg"),
        ("damaged", "images/002.jpg"),
        ("extra", "images/deep/other.jpg"),
    }
    assert {finding.kind for finding in verdict.wrong} == {"missing", "damaged"}
    put_aside(storage, done.out, verdict.wrong)
    aside = {row["id"]: row for row in ledger_of(done.out).to_pylist()}
    assert aside["000.jpg"]["error_message"] == "there is no such file"
    assert aside["001.jpg"]["error_message"] == "its bytes are not those that were written"
    assert aside["001.jpg"]["output_sha256"] is None
    assert aside["003.jpg"]["status"] == "done"
    summary = run_job(done)
    assert (summary.new_done, summary.done, summary.failed) == (3, 7, 1)
    assert {n: storage.read_one(url) for n, url in images.items()} == good
    after = ledger_of(done.out)
    for column in ("id", "variant", "status", "error_message", "output_sha256", "source_sha256"):
        assert after.column(column) == before.column(column)
    assert told(look(done)) == {("extra", "images/deep/other.jpg")}


def test_a_result_that_does_not_open_is_found(job: Job) -> None:
    run_job(job)
    path = Path(job.out, "images", "003.jpg")
    path.write_bytes(b"?" * path.stat().st_size)
    (part,) = [p for p in Path(job.out, "metadata").iterdir() if "003.jpg" in str(pq.read_table(p))]
    # Written wrongly from the start: the ledger has its digest.
    table = pq.read_table(part)
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest() if row["id"] == "003.jpg" else old
        for row, old in zip(table.to_pylist(), table["output_sha256"].to_pylist(), strict=True)
    ]
    index = table.column_names.index("output_sha256")
    pq.write_table(table.set_column(index, "output_sha256", pa.array(digests)), part)
    assert only(look(job)).why == "not an image that restyle can read"


def test_a_part_of_the_ledger_that_is_damaged_is_found_and_mended(done: Job) -> None:
    ledger = Ledger(Storage(), done.out)
    before = ledger_of(done.out)
    broken = ledger.shards()[0]
    url = ledger.part_url(broken)
    Storage().write({url: (Storage().read_one(url) or b"")[:-20]})
    verdict = look(done)
    kinds = [finding.kind for finding in verdict.findings]
    assert kinds[0] == "ledger"
    assert set(kinds[1:]) == {"extra"}
    assert verdict.left == 4
    mend(done)
    assert look(done).findings == []
    assert ledger_of(done.out).column("output_sha256") == before.column("output_sha256")


def test_a_row_that_stands_in_the_ledger_twice_is_found_and_mended(done: Job) -> None:
    ledger = Ledger(Storage(), done.out)
    first = ledger.read_part(ledger.shards()[0])
    assert first is not None
    index = first.column_names.index("shard")
    copied = first.slice(0, 2)
    copied = copied.set_column(index, copied.schema.field(index), pa.array(["another"] * 2))
    ledger.commit("another", copied)
    verdict = look(done)
    assert {finding.kind for finding in verdict.findings} == {"doubled"}
    assert len(verdict.findings) == 2
    mend(done)
    assert look(done).findings == []
    assert ledger_of(done.out).num_rows == 8


def test_carried_columns_keep_their_types(job: Job) -> None:
    rows = [{"uri": f"00{n}.jpg", "boxes": [[0.5, n]], "when": None} for n in range(8)]
    manifest = Path(job.source) / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    job = changed(job, source=str(manifest))
    run_job(job)
    before = ledger_of(job.out)
    Path(job.out, "images", "005.jpg").unlink()
    mend(job)
    after = ledger_of(job.out)
    assert after.schema == before.schema
    assert after.column("boxes") == before.column("boxes")


def test_any_damage_to_any_result_is_found(job: Job) -> None:
    run_job(job)
    lot = random.Random(1)
    paths = sorted(Path(job.out, "images").iterdir())
    for _ in range(40):
        path = lot.choice(paths)
        good = path.read_bytes()
        bad = bytearray(good)
        for _ in range(lot.randint(1, 3)):
            bad[lot.randrange(len(bad))] ^= lot.randint(1, 255)
        if bytes(bad) == good:
            continue
        path.write_bytes(bad)
        assert only(look(job)).path == f"images/{path.name}"
        path.write_bytes(good)


def test_nothing_is_put_aside_while_a_run_is_at_work(job: Job) -> None:
    run_job(job)
    Path(job.out, "images", "000.jpg").unlink()
    claim = Claim(Storage(), job.out)
    claim.take()
    try:
        with pytest.raises(RequestError, match="another run works on"):
            put_aside(Storage(), job.out, look(job).wrong)
    finally:
        claim.release()
    assert set(ledger_of(job.out).column("status").to_pylist()) == {"done"}


def test_no_job_is_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no job\.json"):
        verify(Storage(), str(tmp_path), lambda rows: None)


def test_the_command_tells_and_repairs(
    job: Job, prefect: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(job)
    assert main(["verify", job.out]) == 0
    assert "8 of 8 results as they were written" in capsys.readouterr().out
    Path(job.out, "images", "004.jpg").unlink()
    assert main(["verify", job.out]) == 1
    out = capsys.readouterr().out
    assert "7 of 8 results as they were written, 1 missing" in out
    assert "images/004.jpg: there is no such file" in out
    assert "--repair" in out
    assert main(["verify", job.out, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["path"] == "images/004.jpg"
    assert main(["verify", job.out, "--repair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 8  # nothing of the run that follows
    assert Path(job.out, "images", "004.jpg").exists()
    assert main(["verify", job.out]) == 0
    # What cannot be done again is not passed over.
    Path(job.out, "images", "004.jpg").unlink()
    Path(job.source, "004.jpg").unlink()
    capsys.readouterr()
    assert main(["verify", job.out, "--repair"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "1 row not done again: no longer in SOURCE, or beyond --limit: 004.jpg" in out


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_folder_that_was_moved_is_repaired_where_it_is(
    job: Job, prefect: str, layout: str
) -> None:
    job = changed(job, layout=layout)
    run_job(job)
    moved = f"{job.out}-moved"
    Path(job.out).rename(moved)
    for path in sorted(Path(moved, FOLDERS[layout]).iterdir())[:2]:
        path.write_bytes(b"")
    assert main(["verify", moved, "--repair"]) == 0
    assert main(["verify", moved]) == 0
    assert set(ledger_of(moved)["status"].to_pylist()) == {"done"}
    assert not Path(job.out).exists()
