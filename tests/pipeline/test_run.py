from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.report import examples
from pipeline.results import Summary
from pipeline.run import begin, end, prepare, preview
from pipeline.shard import ShardWorker
from pipeline.spool import read_shard
from pipeline.status import read_status
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import verify
from tests.conftest import jpeg, write_photos
from tests.pipeline.runs import changed, ledger_of, manifest, plan_job, run_job


def test_prepare_looks_and_writes_nothing(job: Job) -> None:
    request = prepare(job)
    assert request.manifest.name == job.source
    assert request.pack.names == ["red", "green", "blue"]
    assert request.digest == job.digest(request.pack.digest)
    assert not Path(job.out).exists()


def test_prepare_makes_all_places_full(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(job.source).parent)
    request = prepare(changed(job, source="photos", out="out"))
    assert (request.job.source, request.job.out) == (job.source, job.out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "gren"}, "unknown style 'gren': did you mean 'green'"),
        ({"style": "red+nosuch"}, "unknown style 'nosuch'"),
        ({"style": ""}, "unknown style ''"),
        ({"style": "red:0"}, "weight of red must be above 0"),
        ({"style": "red,green", "variants": 3}, "--variants 3 of 2 styles: some results"),
        ({"style": "red,red,green", "variants": 2}, "--variants 2 of 2 styles: .*, each once"),
        ({"source": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"source": "/no/such/m.parquet"}, "m.parquet does not exist"),
        ({"source": "/no/such/x.tar"}, "x.tar does not exist"),
        ({"source": "nosuch://bucket/x"}, "nosuch"),
        ({"pack": "/no/such.safetensors"}, "no style pack at /no/such.safetensors"),
        ({"out": "/no/such/result.JPG"}, "result.JPG is to be a folder.*the name of an image"),
        ({"out": "s3://bucket/run[2]"}, r"s3://bucket/run\[2\]: name it without"),
        ({"device": "cuda:99"}, "cuda:99 is not to be had.*--device cpu does without"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    job: Job, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        prepare(changed(job, **settings))
    assert not Path(job.out).exists()


def test_styles_beyond_the_limit_are_not_looked_at(job: Job) -> None:
    job = manifest(job, ["000.jpg", "001.jpg"], style=["red", "purple"])
    assert preview(prepare(changed(job, limit=1))).left == 1
    with pytest.raises(RequestError, match="row 2, column style: unknown style 'purple'"):
        prepare(job)


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_photos_where_results_go_are_not_replaced(
    job: Job, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = str(tmp_path / "set") if place == "disk" else request.getfixturevalue("s3")
    photo = join(out, "images/a.jpg")
    Storage().write({photo: jpeg(), join(out, "m.csv"): b"id,uri\na.jpg,images/a.jpg\n"})
    with pytest.raises(RequestError, match="row 1: the photo lies among the results of --out"):
        run_job(changed(job, source=join(out, "m.csv"), out=out))
    with pytest.raises(RequestError, match="images holds files that no job has made"):
        run_job(changed(job, out=out))
    assert Storage().read_one(photo) == jpeg()


def test_a_place_that_cannot_be_written_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="file is no folder"):
        prepare(changed(job, out=str(tmp_path / "file" / "deep")))
    if os.getuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(RequestError, match="locked cannot be written to"):
            prepare(changed(job, out=str(tmp_path / "locked" / "deep" / "er")))


def test_a_folder_that_has_the_name_of_an_image_is_a_folder(job: Job, tmp_path: Path) -> None:
    (tmp_path / "all.jpg").mkdir()
    prepare(changed(job, out=str(tmp_path / "all.jpg")))


def test_a_pack_in_a_bucket_is_found_from_anywhere(job: Job, s3: str) -> None:
    place = f"{s3}/styles/small.safetensors"
    Storage().write({place: Path(job.pack).read_bytes()})
    request = prepare(changed(job, pack=place))
    assert request.pack.names == ["red", "green", "blue"]
    assert not Path(job.out).exists()
    assert request.job.pack == place
    run_job(request.job)
    assert request.output.require_job().job["pack"] == place


def test_the_gpus_of_a_cluster_are_not_looked_for_here(job: Job) -> None:
    there = prepare(changed(job, device="cuda:99", runner="ray"))
    assert there.job.device == "cuda:99"


@pytest.mark.parametrize("place", ["source", "out"])
def test_a_missing_bucket_is_refused(job: Job, s3: str, place: str) -> None:
    with pytest.raises(RequestError, match="s3://no-such-bucket does not exist"):
        prepare(changed(job, **{place: "s3://no-such-bucket/x"}))
    assert not Path(job.out).exists()


def test_a_source_without_images_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    (tmp_path / "m.csv").write_text("uri\n")
    for source in (tmp_path / "empty", tmp_path / "m.csv", tmp_path / "photos" / "*.gif"):
        with pytest.raises(RequestError, match="has no images"):
            prepare(changed(job, source=str(source)))
    assert not Path(job.out).exists()


def test_a_column_that_clashes_with_the_ledger_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,output_uri\na.jpg,x\n")
    with pytest.raises(RequestError, match="'output_uri' clashes"):
        prepare(changed(job, source=str(tmp_path / "m.csv")))


def test_schemes_are_allowed_by_the_job(job: Job, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri\nhttps://host/a.jpg\n")
    with pytest.raises(RequestError, match="--allow-scheme https"):
        prepare(changed(job, source=str(tmp_path / "m.csv")))
    prepare(changed(job, source=str(tmp_path / "m.csv"), allow_scheme=["https"]))


def test_results_in_the_source_folder_are_not_stylized_again(job: Job) -> None:
    job = changed(job, out=join(job.source, "stylized"))
    assert run_job(job).new_done == 8
    summary = run_job(job)
    assert (summary.rows, summary.new_done) == (8, 0)


def test_a_preview_tells_what_a_run_would_do_and_writes_nothing(job: Job) -> None:
    plan = preview(prepare(job))
    assert (plan.rows, plan.left, plan.shards, plan.done) == (8, 8, 2, 0)
    photos = Path(job.source).iterdir()
    assert plan.left_bytes == sum(path.stat().st_size for path in photos)
    assert not Path(job.out).exists()
    run_job(job)
    write_photos(Path(job.source), 1, first=8)
    before = sorted(Path(job.out).rglob("*"))
    plan = preview(prepare(job))
    assert (plan.rows, plan.left, plan.shards, plan.done) == (9, 1, 1, 8)
    assert sorted(Path(job.out).rglob("*")) == before


def test_begin_writes_the_plan_down(job: Job) -> None:
    request = prepare(job)
    plan, refs = begin(request)
    request.claim.release()
    assert [ref.rows for ref in refs] == [4, 4]
    assert (plan.rows, plan.shards) == (8, 2)
    assert Path(job.out, "job.json").exists()
    assert all(Path(ref.url).is_relative_to(Path(job.out, ".restyle")) for ref in refs)


def test_a_wrong_row_anywhere_leaves_nothing_behind(job: Job, tmp_path: Path) -> None:
    rows = [f"{number}.jpg,red" for number in range(200)]
    (tmp_path / "m.csv").write_text("\n".join(["uri,style", *rows, "0.jpg,red"]))
    request = prepare(changed(job, source=str(tmp_path / "m.csv"), shard_size=1))
    with pytest.raises(RequestError, match="rows 1 and 201"):
        begin(request)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("out", ".restyle")]


def test_a_wrong_row_leaves_earlier_results_as_they_were(job: Job, tmp_path: Path) -> None:
    (Path(job.source) / "m.txt").write_text("000.jpg\n001.jpg\n")
    job = changed(job, source=join(job.source, "m.txt"))
    run_job(job)
    before = {path: path.stat().st_mtime_ns for path in Path(job.out).rglob("*") if path.is_file()}
    Path(job.source).write_text("000.jpg\n001.jpg\n002.jpg\n000.jpg\n")
    with pytest.raises(RequestError, match="rows 1 and 4"):
        run_job(job)
    after = {path: path.stat().st_mtime_ns for path in Path(job.out).rglob("*") if path.is_file()}
    assert after == before


def test_a_run_that_ended_well_leaves_only_results(job: Job) -> None:
    run_job(job)
    names = sorted(path.name for path in Path(job.out).iterdir())
    assert names == ["_SUCCESS", "images", "job.json", "metadata"]


def test_an_interrupted_run_carries_on(job: Job) -> None:
    request = prepare(job)
    plan, _ = begin(request)
    stopped = Summary.of(request.job, plan)
    stopped.stopped = "interrupted"
    end(request, stopped)
    assert not Path(job.out, "_SUCCESS").exists()
    summary = run_job(job)
    assert (summary.rows, summary.done, summary.succeeded) == (8, 8, True)
    assert Path(job.out, "_SUCCESS").exists()


def test_unfinished_files_lie_below_a_local_out_alone(job: Job, s3: str) -> None:
    storage = prepare(job).storage
    storage.write({join(job.out, "images/x"): b"x"})
    assert Path(job.out, ".restyle/partial").is_dir()
    far = prepare(changed(job, out=join(s3, "out"))).storage
    far.write({join(s3, "out/images/x"): b"x"})
    assert Storage().names(join(s3, "out")) == ["images"]


def test_a_source_that_changes_before_it_is_read_is_done_again(job: Job) -> None:
    request, refs = plan_job(job)
    photo = Path(job.source, "003.jpg")
    photo.write_bytes(jpeg(80, 60, seed=99))  # after it was listed, before it is read
    worker = ShardWorker(request.job, request.pack, request.storage)
    for ref in refs:
        worker.run(ref.key, read_shard(request.storage, ref), lambda done, failed: None)
    again = run_job(job)
    assert (again.new_done, again.done) == (1, 8)
    assert run_job(job).new_done == 0
    (row,) = [row for row in ledger_of(job.out).to_pylist() if row["id"] == "003.jpg"]
    assert row["source_sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()


def test_a_source_that_has_vanished_is_a_failed_row_until_it_is_back(job: Job) -> None:
    rows = Path(job.source, "rows.txt")
    rows.write_text("".join(f"{number:03d}.jpg\n" for number in range(8)))
    job = changed(job, source=str(rows), max_failed=0.5)
    photo = rows.parent / "003.jpg"
    data = photo.read_bytes()
    photo.unlink()
    assert (run_job(job).failed, ledger_of(job.out)["error_message"].to_pylist()[3]) == (
        1, "there is no such file",
    )  # fmt: skip
    photo.write_bytes(data)
    assert run_job(job).failed == 0
    photo.unlink()
    assert run_job(job).done == 8  # what was done is done for good


def test_a_folder_of_before_there_were_layouts_is_gone_on_with(job: Job) -> None:
    run_job(job)
    out = Path(job.out)
    record = json.loads((out / "job.json").read_text())
    del record["job"]["layout"]
    (out / "job.json").write_text(json.dumps(record))
    for part in (out / "metadata").iterdir():
        pq.write_table(pq.read_table(part).drop_columns("output_offset"), part)
    assert read_status(Storage(), job.out).done == 8
    assert verify(Storage(), job.out, lambda rows: None).findings == []
    assert len(examples(Storage(), job.out, 12, 32)) == 8
    assert run_job(job).new_done == 0
    with pytest.raises(RequestError, match=r"\(size 64, now 96\)"):
        run_job(changed(job, size="96"))
    write_photos(Path(job.source), 1)  # other bytes, the same id
    os.utime(Path(job.source) / "000.jpg")
    assert run_job(job).new_done == 1
    assert verify(Storage(), job.out, lambda rows: None).findings == []
