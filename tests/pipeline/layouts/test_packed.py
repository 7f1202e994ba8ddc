"""Results of a shard in one file, of whatever kind, and what the ledger says of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from pipeline import claim as claim_module
from pipeline.claim import TakenOver
from pipeline.errors import RequestError, SystemFault
from pipeline.inhand import NOBODY, Board, Suspects
from pipeline.job import Job
from pipeline.layouts import PACKED
from pipeline.ledger import Ledger, result_source
from pipeline.report import examples
from pipeline.run import Request, begin, prepare
from pipeline.shard import ShardWorker
from pipeline.spool import read_shard
from pipeline.storage import Source, Storage
from pipeline.url import join
from pipeline.verify import put_aside, verify
from tests.conftest import jpeg, open_image, write_photos
from tests.pipeline.layouts.packing import assert_sound, packed_files
from tests.pipeline.runs import changed, ledger_of, plan_job, run_job


@pytest.fixture(params=["webdataset", "parquet"])
def packed(request: pytest.FixtureRequest, job: Job) -> Job:
    """A job for eight photos, four in a file."""
    return changed(job, layout=request.param)


@pytest.fixture(params=["disk", "bucket"])
def anywhere(request: pytest.FixtureRequest, packed: Job) -> Job:
    """The same, with its results on a disk or in a bucket."""
    if request.param == "disk":
        return packed
    return changed(packed, out=join(request.getfixturevalue("s3"), "out"))


def result(job: Job, row: dict[str, Any]) -> bytes:
    (data,) = Storage().read([result_source(job.out, row)])
    assert isinstance(data, bytes), data
    return data


def test_a_job_is_a_file_for_each_shard(anywhere: Job) -> None:
    assert run_job(anywhere).done == 8
    assert len(packed_files(anywhere)) == 2
    assert Storage().names(join(anywhere.out, "images")) == []
    assert_sound(anywhere)
    rows = ledger_of(anywhere.out).to_pylist()
    assert {Path(row["output_uri"]).name for row in rows} == set(packed_files(anywhere))
    for row in rows:
        data = result(anywhere, row)
        assert hashlib.sha256(data).hexdigest() == row["output_sha256"]
        assert open_image(data).shape == (64, 64, 3)


def test_results_are_those_that_files_would_be(packed: Job, tmp_path: Path) -> None:
    run_job(packed)
    files = changed(packed, layout="files", out=str(tmp_path / "files"))
    run_job(files)
    mine, theirs = ledger_of(packed.out), ledger_of(files.out)
    assert mine["output_sha256"] == theirs["output_sha256"]
    assert theirs["output_offset"].null_count == 8


def test_the_same_job_makes_the_same_bytes(packed: Job) -> None:
    other = changed(packed, out=f"{packed.out}2")
    for job in (packed, other):
        run_job(job)
    mine, theirs = (
        {name: Path(job.out, "shards", name).read_bytes() for name in packed_files(job)}
        for job in (packed, other)
    )
    assert mine == theirs


def test_rows_done_again_join_those_that_stay(anywhere: Job) -> None:
    photos = Path(anywhere.source)
    (photos / "001.jpg").write_bytes(b"no image")
    run_job(anywhere)
    before = {row["id"]: row["output_sha256"] for row in ledger_of(anywhere.out).to_pylist()}
    (photos / "001.jpg").write_bytes(jpeg(seed=50))
    (photos / "002.jpg").write_bytes(jpeg(seed=51))
    summary = run_job(changed(anywhere, retry_failed=True))
    assert (summary.done, summary.new_done) == (8, 2)
    assert len(packed_files(anywhere)) == 2
    assert_sound(anywhere)
    after = {row["id"]: row["output_sha256"] for row in ledger_of(anywhere.out).to_pylist()}
    assert {name for name in before if before[name] != after[name]} == {"001.jpg", "002.jpg"}


def test_a_row_that_fails_now_is_no_sample_any_more(packed: Job) -> None:
    run_job(packed)
    (Path(packed.source) / "005.jpg").write_bytes(b"no image")
    assert run_job(packed).failed == 1
    assert_sound(packed)
    gone = next(row for row in ledger_of(packed.out).to_pylist() if row["status"] == "failed")
    assert (gone["output_uri"], gone["output_offset"]) == (None, None)
    held = b"".join(Path(packed.out, "shards", name).read_bytes() for name in packed_files(packed))
    assert held.count(b"\xff\xd8\xff") == 7


@pytest.mark.parametrize("stopped_in", ["write", "commit", "clear"])
def test_wherever_a_run_dies_the_ledger_is_right_and_the_next_clears_up(
    anywhere: Job, stopped_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(anywhere)
    photos = Path(anywhere.source)
    (photos / "000.jpg").write_bytes(jpeg(seed=70))
    (photos / "new.jpg").write_bytes(jpeg(seed=71))

    class Died(BaseException):
        """As if the power had gone."""

    def die(*_: object) -> None:
        raise Died

    def after(call: Callable[..., object]) -> Callable[..., None]:
        def done(*arguments: Any) -> None:
            call(*arguments)
            raise Died

        return done

    with monkeypatch.context() as patch:
        if stopped_in == "write":
            patch.setattr(Storage, "write_file", after(Storage.write_file))
        elif stopped_in == "commit":
            patch.setattr(Ledger, "commit", after(Ledger.commit))
        else:
            patch.setattr(Storage, "delete", _unless_scratch(die))
        with pytest.raises(Died):
            run_job(anywhere)
    verdict = verify(Storage(), anywhere.out, lambda rows: None)
    assert verdict.wrong == []
    # As after a kill: which rows make a shard may have changed by now.
    assert run_job(changed(anywhere, shard_size=3)).done == 9
    assert_sound(anywhere)


def _unless_scratch(call: Callable[..., None]) -> Callable[..., None]:
    """As Storage.delete, but ``call`` where results are to go."""
    delete = Storage.delete

    def chosen(storage: Storage, url: str) -> None:
        (call if "/shards/" in url else delete)(storage, url)

    return chosen


def test_a_file_that_no_row_knows_of_goes(anywhere: Job) -> None:
    photos = Path(anywhere.source)
    run_job(anywhere)
    Storage().write({join(anywhere.out, "shards", f"{0:016}-{0:016}.tar"): b"?"})
    (photos / "new.jpg").write_bytes(jpeg(seed=80))
    run_job(anywhere)
    assert len(packed_files(anywhere)) == 3
    assert_sound(anywhere)


def test_a_file_goes_too_when_its_run_died_and_its_rows_have_all_failed(
    packed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(packed)
    for number in range(4):
        (Path(packed.source) / f"{number:03d}.jpg").write_bytes(b"no image")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", _unless_scratch(die))
        with pytest.raises(KeyboardInterrupt):
            run_job(packed)
    assert run_job(packed).failed == 4
    assert_sound(packed)


def test_a_worker_that_was_given_up_and_goes_on_spoils_nothing(
    packed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next does what was in hand first, so that its file is another."""
    request, (ref, _) = plan_job(packed)
    rows = read_shard(request.storage, ref)
    commits: list[Callable[[], None]] = []
    commit = Ledger.commit
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", lambda *given: commits.append(partial(commit, *given)))
        for suspects in (NOBODY, Suspects({2: 0})):
            worker = ShardWorker(request.job, request.pack, request.storage)
            worker.run(ref.key, rows, lambda done, failed: None, suspects)
    for one in reversed(commits):
        one()
        assert verify(Storage(), packed.out, lambda rows: None).wrong == []


@pytest.mark.parametrize("have_ended", [True, False])
def test_a_worker_that_was_given_up_commits_nothing(
    packed: Job, monkeypatch: pytest.MonkeyPatch, have_ended: bool
) -> None:
    """It stands still when its file is in place; others do the job, and clear that file away."""
    request = prepare(packed)
    _, (ref, _) = begin(request)
    rows = read_shard(request.storage, ref)
    write_file = Storage.write_file
    others: list[Request] = []

    def stand_still(*given: Any) -> None:
        write_file(*given)
        monkeypatch.setattr(Storage, "write_file", write_file)
        request.claim.release()
        write_photos(Path(packed.source), 1, first=3)  # so that theirs is another file
        run_job(packed)
        if not have_ended:
            others.append(prepare(packed))
            begin(others[0])

    monkeypatch.setattr(claim_module, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(Storage, "write_file", stand_still)
    worker = ShardWorker(request.job, request.pack, request.storage)
    with pytest.raises(TakenOver, match="has ended" if have_ended else "has taken over"):
        worker.run(ref.key, rows, lambda done, failed: None, claim=ref.claim)
    for other in others:
        other.claim.release()
    assert_sound(packed)


def test_putting_a_file_in_its_place_tells_of_progress(anywhere: Job) -> None:
    """A worker that tells of none is killed for it in the end."""
    run_job(anywhere)
    write_photos(Path(anywhere.source), 1, first=3)
    request, (ref,) = plan_job(anywhere)
    board = Board()
    worker = ShardWorker(request.job, request.pack, request.storage, board=board)
    worker.run(ref.key, read_shard(request.storage, ref), lambda done, failed: None)
    is_far = not anywhere.out.startswith("/")
    assert board.beats() > (1 if is_far else 0)


def test_large_results_that_stay_are_read_a_few_at_a_time(
    packed: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(packed)
    write_photos(Path(packed.source), 1, first=90)
    (Path(packed.source) / "000.jpg").write_bytes(jpeg(seed=91))
    together: list[int] = []
    read = Storage.read

    def counted(storage: Storage, sources: list[Source]) -> object:
        if "/shards/" in sources[0].uri:
            together.append(len(sources))
        return read(storage, sources)

    monkeypatch.setattr("pipeline.layouts.packed.CHUNK_BYTES", 1)
    monkeypatch.setattr(Storage, "read", counted)
    run_job(packed)
    assert together == [1, 1, 1]


@pytest.mark.parametrize("damage", ["tail", "label"])
def test_damage_around_the_images_is_found_and_mended(anywhere: Job, damage: str) -> None:
    run_job(anywhere)
    before = ledger_of(anywhere.out)["output_sha256"]
    url = join(anywhere.out, "shards", packed_files(anywhere)[0])
    data = Storage().read_one(url) or b""
    worse = data[:-9] if damage == "tail" else data.replace(b"red", b"rod", 1)
    Storage().write({url: worse})
    verdict = verify(Storage(), anywhere.out, lambda rows: None)
    assert [finding.kind for finding in verdict.wrong] == ["damaged"] * 4
    put_aside(Storage(), anywhere.out, verdict.wrong)
    run_job(anywhere)
    assert_sound(anywhere)
    assert ledger_of(anywhere.out)["output_sha256"] == before


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_file_is_found_and_done_again(anywhere: Job, damage: str) -> None:
    run_job(anywhere)
    before = ledger_of(anywhere.out)["output_sha256"]
    url = join(anywhere.out, "shards", packed_files(anywhere)[0])
    data = bytearray(Storage().read_one(url) or b"")
    if damage == "gone":
        Storage().delete(url)
    elif damage == "cut":
        Storage().write({url: bytes(data[: len(data) // 2])})
    else:
        data[600] ^= 1
        Storage().write({url: bytes(data)})
    verdict = verify(Storage(), anywhere.out, lambda rows: None)
    kinds = {finding.kind for finding in verdict.findings}
    assert kinds == {"gone": {"missing"}, "cut": {"damaged"}, "changed": {"damaged"}}[damage]
    assert len(verdict.findings) == {"gone": 4, "changed": 1}.get(damage, len(verdict.findings))
    put_aside(Storage(), anywhere.out, verdict.wrong)
    run_job(anywhere)
    assert_sound(anywhere)
    assert ledger_of(anywhere.out)["output_sha256"] == before


def test_a_file_that_is_gone_stops_the_run_and_says_what_to_do(packed: Job) -> None:
    run_job(packed)
    shard = next(row["output_uri"] for row in ledger_of(packed.out).to_pylist())
    Path(packed.out, shard).unlink()
    (Path(packed.source) / "000.jpg").write_bytes(jpeg(seed=90))
    with pytest.raises(SystemFault, match=r"no such file; restyle verify .* --repair"):
        run_job(packed)


def test_a_damaged_result_is_not_taken_over(packed: Job) -> None:
    run_job(packed)
    row = ledger_of(packed.out).to_pylist()[0]
    path = Path(packed.out, row["output_uri"])
    data = bytearray(path.read_bytes())
    data[row["output_offset"]] ^= 1
    path.write_bytes(data)
    (Path(packed.source) / "001.jpg").write_bytes(jpeg(seed=90))
    with pytest.raises(SystemFault, match=r"damaged; restyle verify .* --repair"):
        run_job(packed)


def test_no_folder_for_temporary_files_is_a_fault_of_the_system(
    packed: Job, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(SystemFault, match=r"\(TMPDIR\)"):
        run_job(changed(packed, out=join(s3, "out")))


@pytest.mark.parametrize("when", ["add", "close"])
def test_no_room_is_a_fault_of_the_system(
    anywhere: Job, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for kind in PACKED.values():
        monkeypatch.setattr(kind, when, full)
    said = r"\(TMPDIR\) cannot take s3://" if "://" in anywhere.out else "cannot write /"
    with pytest.raises(SystemFault, match=f"{said}.*No space left"):
        run_job(anywhere)
    if "://" not in anywhere.out:
        assert not list(Path(anywhere.out).rglob("*.partial"))


def test_one_layout_does_not_replace_the_other_unasked(job: Job) -> None:
    run_job(job)
    packed = changed(job, layout="webdataset")
    with pytest.raises(RequestError, match="layout files, now webdataset"):
        run_job(packed)
    assert run_job(changed(packed, overwrite=True)).done == 8
    assert len(packed_files(packed)) == 2
    found = verify(Storage(), job.out, lambda rows: None).findings
    assert {finding.kind for finding in found} == {"extra"}
    assert len(found) == 8
    run_job(changed(job, overwrite=True))
    assert packed_files(job) == []
    assert_sound(job)


@pytest.mark.parametrize("when", ["before", "after"])
def test_files_of_others_are_not_touched(packed: Job, when: str) -> None:
    if when == "after":
        run_job(packed)
        write_photos(Path(packed.source), 1, first=9)
    mine = Path(packed.out, "shards", f"mine.{packed.layout}")
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_bytes(b"mine")
    if when == "before":
        with pytest.raises(RequestError, match="shards holds files that no job has made"):
            run_job(packed)
    else:
        assert run_job(packed).done == 9
    assert mine.read_bytes() == b"mine"


def test_the_report_shows_what_is_in_packed_files(anywhere: Job) -> None:
    run_job(anywhere)
    shown = examples(Storage(), anywhere.out, per_style=12, width=32)
    assert len({example.result.tobytes() for example in shown}) == 8


def test_from_the_command_line(packed: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(packed)
    assert main(["status", packed.out]) == 0
    assert f"{packed.out}/shards" in "".join(capsys.readouterr().out.split())
    assert main(["status", packed.out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 8
