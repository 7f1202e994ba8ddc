"""Results as WebDataset tars: what the library of that name reads, and what the ledger says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from flows.cli import main
from pipeline.errors import RequestError, SystemFault
from pipeline.job import Job
from pipeline.ledger import Ledger, result_source
from pipeline.report import examples
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import put_aside, verify
from tests.conftest import jpeg, open_image, write_photos
from tests.pipeline.runs import changed, ledger_of, run_job, write_tar


@pytest.fixture
def packed(job: Job) -> Job:
    """A job for eight photos, in tars of four."""
    return changed(job, layout="webdataset")


@pytest.fixture(params=["disk", "bucket"])
def anywhere(request: pytest.FixtureRequest, packed: Job) -> Job:
    """The same, with its results on a disk or in a bucket."""
    if request.param == "disk":
        return packed
    return changed(packed, out=join(request.getfixturevalue("s3"), "out"))


def manifest(job: Job, **columns: Any) -> Job:
    """The job with a manifest of the first photos."""
    count = len(next(iter(columns.values())))
    path = Path(job.source) / "m.parquet"
    uris = [f"{number:03d}.jpg" for number in range(count)]
    pq.write_table(pa.table({"uri": uris, "id": uris} | columns), path)
    return changed(job, source=str(path))


def tars(job: Job) -> list[str]:
    return [name for name in Storage().names(join(job.out, "shards")) if name.endswith(".tar")]


def samples(job: Job) -> dict[str, dict[str, Any]]:
    """What the library finds in the tars of a job on disk, by key."""
    paths = [str(Path(job.out, "shards", name)) for name in tars(job)]
    read = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    by_key = {sample["__key__"]: sample for sample in read}
    assert len(by_key) == len(read)
    return by_key


def result(job: Job, row: dict[str, Any]) -> bytes:
    (data,) = Storage().read([result_source(job.out, row)])
    assert isinstance(data, bytes), data
    return data


def assert_sound(job: Job) -> None:
    """Every result is where the ledger has it, and nothing else is there."""
    assert verify(Storage(), job.out, lambda rows: None).findings == []


def test_a_job_is_a_tar_for_each_shard(anywhere: Job) -> None:
    assert run_job(anywhere).done == 8
    assert len(tars(anywhere)) == 2
    assert Storage().names(join(anywhere.out, "images")) == []
    assert_sound(anywhere)
    rows = ledger_of(anywhere.out).to_pylist()
    assert {row["output_uri"] for row in rows} == {f"shards/{name}" for name in tars(anywhere)}
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


def test_the_library_reads_image_row_and_label(packed: Job) -> None:
    job = manifest(packed, label=["cat", "dog", None], cls=[2, 0, 1], txt=["a cat", None, ""])
    run_job(job)
    read = samples(job)
    assert read.keys() == {"000", "001", "002"}
    assert read["000"]["jpg"].shape == (64, 64, 3)
    assert [read[key].get("cls") for key in sorted(read)] == [2, 0, 1]
    assert [read[key].get("txt") for key in sorted(read)] == ["a cat", None, ""]
    assert read["001"]["json"] == {
        "id": "001.jpg", "variant": 0, "style": "red", "strength": 1.0, "seed": 0,
        "source_uri": f"{Path(job.source).parent}/001.jpg", "label": "dog",
    }  # fmt: skip


def test_what_json_has_no_words_for_is_in_the_ledger_alone(packed: Job) -> None:
    columns = {
        "when": pa.array([datetime(2026, 1, 2, tzinfo=UTC)], pa.timestamp("ns", "UTC")),
        "price": pa.array([Decimal("1.50")]),
        "boxes": [[{"x": 0.5, "label": "cat"}]],
        "kind": pa.array(["cat"]).dictionary_encode(),
        "mask": [b"\0\1"],
        "masks": [[b"\0\1"]],
    }
    job = manifest(packed, **columns)
    run_job(job)
    told = samples(job)["000"]["json"]
    assert told["when"].startswith("2026-01-02 00:00:00")
    assert (told["price"], told["kind"]) == ("1.50", "cat")
    assert told["boxes"] == [{"x": 0.5, "label": "cat"}]
    assert not told.keys() & {"mask", "masks"}
    assert ledger_of(job.out)["mask"].to_pylist() == [b"\0\1"]


def test_tars_become_tars_with_what_lay_beside_the_images(packed: Job, tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "in.tar",
        {
            "a/one.jpg": jpeg(seed=1), "a/one.cls": b"7", "a/one.json": b'{"id": 12, "box": [1]}',
            "a/two.jpg": jpeg(seed=2), "a/two.txt": "schön".encode(), "a/two.json": b"[3]",
        },
    )  # fmt: skip
    job = changed(packed, source=str(tar))
    run_job(job)
    one, two = (samples(job)[f"in/a/{name}"] for name in ("one", "two"))
    assert (one["cls"], one["json"]["id"], one["json"]["box"]) == (7, 12, [1])
    assert (two["txt"], two["json"]["id"], two["json"]["json"]) == ("schön", "in/a/two.jpg", [3])
    again = changed(packed, source=str(Path(job.out, "shards", "*.tar")), out=f"{job.out}2")
    assert run_job(again).done == 2
    assert [s["json"]["id"] for s in samples(again).values()] == [12, "in/a/two.jpg"]


def test_no_two_rows_become_one_sample(packed: Job) -> None:
    folder = Path(packed.source)
    names = ["a.b.jpg", "a_b.jpg", "a.jpg", "a.jpeg", "a.png", ".h.jpg", "d.e/a.jpg", "ü 1%.jpg"]
    for number, path in enumerate(sorted(folder.glob("*.jpg"))):
        (folder / names[number]).parent.mkdir(exist_ok=True)
        path.rename(folder / names[number])
    table = folder / "m.csv"
    table.write_text("uri\n" + "\n".join(names))
    job = changed(packed, source=str(table), variants=2, style="red,green", shard_size=16)
    run_job(job)
    read = samples(job)
    assert len(read) == 16
    assert {(s["json"]["id"], s["json"]["variant"]) for s in read.values()} == {
        (name, variant) for name in names for variant in (0, 1)
    }
    assert {"a", "a_v1", "a_b", "d.e/a", "d.e/a_v1", "ü 1%"} <= read.keys()
    assert_sound(job)


def test_the_same_job_makes_the_same_bytes(packed: Job) -> None:
    other = changed(packed, out=f"{packed.out}2")
    for job in (packed, other):
        run_job(job)
    mine, theirs = (
        {name: Path(job.out, "shards", name).read_bytes() for name in tars(job)}
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
    assert len(tars(anywhere)) == 2
    assert_sound(anywhere)
    after = {row["id"]: row["output_sha256"] for row in ledger_of(anywhere.out).to_pylist()}
    assert {name for name in before if before[name] != after[name]} == {"001.jpg", "002.jpg"}


def test_samples_that_stay_keep_all_their_files(packed: Job) -> None:
    job = manifest(packed, cls=[4, 5, 6, 7], label=["a", "b", "c", "d"])
    run_job(job)
    before = samples(job)
    (Path(job.source).parent / "002.jpg").write_bytes(jpeg(seed=60))
    run_job(job)
    after = samples(job)
    assert after.keys() == before.keys()
    for key in ("000", "001", "003"):
        assert after[key]["json"] == before[key]["json"]
        assert after[key]["cls"] == before[key]["cls"]
        assert after[key]["jpg"].tobytes() == before[key]["jpg"].tobytes()
    assert after["002"]["jpg"].tobytes() != before["002"]["jpg"].tobytes()


def test_a_row_that_fails_now_is_no_sample_any_more(packed: Job) -> None:
    run_job(packed)
    (Path(packed.source) / "005.jpg").write_bytes(b"no image")
    assert run_job(packed).failed == 1
    assert len(samples(packed)) == 7
    assert_sound(packed)


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
    """As Storage.delete, but ``call`` where it is a tar that is to go."""
    delete = Storage.delete

    def chosen(storage: Storage, url: str) -> None:
        (call if url.endswith(".tar") else delete)(storage, url)

    return chosen


def test_a_tar_that_no_row_knows_of_goes(anywhere: Job) -> None:
    photos = Path(anywhere.source)
    run_job(anywhere)
    Storage().write({join(anywhere.out, "shards", "0123456789abcdef.tar"): b"?"})
    (photos / "new.jpg").write_bytes(jpeg(seed=80))
    run_job(anywhere)
    assert len(tars(anywhere)) == 3
    assert_sound(anywhere)


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_tar_is_found_and_done_again(anywhere: Job, damage: str) -> None:
    run_job(anywhere)
    before = ledger_of(anywhere.out)["output_sha256"]
    url = join(anywhere.out, "shards", tars(anywhere)[0])
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


def test_a_tar_that_is_gone_stops_the_run_and_says_what_to_do(packed: Job) -> None:
    run_job(packed)
    shard = next(row["output_uri"] for row in ledger_of(packed.out).to_pylist())
    Path(packed.out, shard).unlink()
    (Path(packed.source) / "000.jpg").write_bytes(jpeg(seed=90))
    with pytest.raises(SystemFault, match=r"tar is gone or damaged; restyle verify .* --repair"):
        run_job(packed)


def test_no_room_is_a_fault_of_the_system(packed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.storage.tempfile.TemporaryFile", full)
    with pytest.raises(SystemFault, match="No space left"):
        run_job(packed)


def test_one_layout_does_not_replace_the_other_unasked(job: Job) -> None:
    run_job(job)
    packed = changed(job, layout="webdataset")
    with pytest.raises(RequestError, match="layout files, now webdataset"):
        run_job(packed)
    assert run_job(changed(packed, overwrite=True)).done == 8
    assert len(tars(packed)) == 2
    found = verify(Storage(), job.out, lambda rows: None).findings
    assert {finding.kind for finding in found} == {"extra"}
    assert len(found) == 8


@pytest.mark.parametrize("when", ["before", "after"])
def test_tars_of_others_are_not_touched(packed: Job, when: str) -> None:
    if when == "after":
        run_job(packed)
        write_photos(Path(packed.source), 1, first=9)
    tar = write_tar(Path(packed.out, "shards", "mine.tar"), {"a.jpg": jpeg()})
    if when == "before":
        with pytest.raises(RequestError, match="shards holds files that no job has made"):
            run_job(packed)
    else:
        assert run_job(packed).done == 9
    assert tarfile.is_tarfile(tar)


def test_the_report_shows_what_is_in_tars(anywhere: Job) -> None:
    run_job(anywhere)
    shown = examples(Storage(), anywhere.out, per_style=12, width=32)
    assert len({example.result.tobytes() for example in shown}) == 8


def test_from_the_command_line(packed: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(packed)
    assert main(["status", packed.out]) == 0
    assert f"{packed.out}/shards" in "".join(capsys.readouterr().out.split())
    assert main(["status", packed.out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 8
