from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.output import Output
from pipeline.run import prepare
from pipeline.storage import Storage
from pipeline.styles.pack import find_pack
from pipeline.url import join
from tests.conftest import jpeg
from tests.pipeline.runs import changed, ledger_of, run_job

NOTHING = pa.schema([])


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    return join(place, "out")


def begun(job: Job, carried: pa.Schema = NOTHING) -> Output:
    output = Output(Storage(), job.out)
    output.begin(job, find_pack(job.pack), carried, rows=8, gone=0)
    return output


def check(job: Job, carried: pa.Schema = NOTHING) -> None:
    Output(Storage(), job.out).check(job, find_pack(job.pack), carried)


def test_an_empty_folder_takes_any_job(job: Job, out: str) -> None:
    check(changed(job, out=out))
    assert Output(Storage(), out).read_job() is None


def test_job_json_tells_enough_to_do_it_again(job: Job, out: str) -> None:
    job = changed(job, out=out, style="red:1+blue:2", seed=5, variants=2)
    begun(job, pa.schema([("label", pa.list_(pa.int8()))]))
    data = Storage().read_one(join(out, "job.json"))
    assert data is not None
    told = json.loads(data)
    assert Job.model_validate(told["job"]) == job
    assert told["model_digest"] == find_pack(job.pack).digest
    assert told["job_digest"] == job.digest(told["model_digest"])
    assert told["rows"] == 8
    assert told["carried"] == {"label": "list<item: int8>"}
    assert {"python", "torch", "pillow", "numpy", "pyarrow"} <= told["versions"].keys()
    assert {"simplejpeg", "pi-heif", "numba"} <= told["versions"].keys()


def test_job_json_holds_no_secret(job: Job) -> None:
    begun(changed(job, source="https://host/m.parquet?X-Amz-Signature=hush"))
    assert "hush" not in Path(job.out, "job.json").read_text()


def test_the_same_settings_are_accepted_again(job: Job, out: str) -> None:
    job = changed(job, out=out)
    begun(job)
    check(job)
    check(changed(job, shard_size=1, workers=3, limit=2, max_failed=1, source="/elsewhere"))


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("style", "green", "style red, now green"),
        ("strength", 0.5, "strength 1.0, now 0.5"),
        ("size", "native", "size 64, now native"),
        ("format", "png", "format jpg, now png"),
        ("quality", 50, "quality 92, now 50"),
        ("variants", 2, "variants 1, now 2"),
        ("seed", 1, "seed 0, now 1"),
        ("precision", "fp32", "precision auto, now fp32"),
    ],
)
def test_other_settings_are_refused_with_the_difference(
    job: Job, setting: str, value: Any, told: str
) -> None:
    begun(job)
    with pytest.raises(RequestError, match=rf"other settings \({told}\).*--overwrite"):
        check(changed(job, **{setting: value}))
    check(changed(job, **{setting: value}, overwrite=True))


def test_another_network_is_refused(job: Job) -> None:
    begun(job)
    with pytest.raises(RequestError, match="another network"):
        Output(Storage(), job.out).check(job, find_pack(""), NOTHING)


def test_a_carried_column_of_another_type_is_refused(job: Job) -> None:
    begun(job, pa.schema([("label", pa.int64()), ("name", pa.string())]))
    begun(job, pa.schema([("name", pa.string())]))  # the ledger has the other one all the same
    check(job, pa.schema([("label", pa.int64())]))
    check(job, pa.schema([("name", pa.string()), ("new", pa.int8()), ("label", pa.int64())]))
    for asked in (job, changed(job, overwrite=True)):
        with pytest.raises(RequestError, match=r"column 'label' is string .* int64 in the ledger"):
            check(asked, pa.schema([("label", pa.string())]))


def test_a_column_of_another_type_is_refused_before_anything_is_written(job: Job) -> None:
    manifest = Path(job.source) / "m.parquet"
    pq.write_table(pa.table({"uri": ["000.jpg"], "label": [1]}), manifest)
    run_job(changed(job, source=str(manifest)))
    before = sorted(Path(job.out).rglob("*"))
    pq.write_table(pa.table({"uri": ["000.jpg", "001.jpg"], "label": ["cat", "dog"]}), manifest)
    with pytest.raises(RequestError, match="column 'label' is string"):
        run_job(changed(job, source=str(manifest)))
    assert sorted(Path(job.out).rglob("*")) == before


@pytest.mark.parametrize("content", ["not json", "[]", "{}", "3", '{"job": {}}', "\xff"])
def test_a_job_json_of_something_else_is_refused(job: Job, content: str) -> None:
    Path(job.out).mkdir()
    Path(job.out, "job.json").write_text(content, encoding="latin-1")
    with pytest.raises(RequestError, match=r"job\.json"):
        prepare(job)


def test_the_folder_is_marked_complete_only_while_it_is(job: Job, out: str) -> None:
    job = changed(job, out=out)
    output = begun(job)
    assert not output.succeeded()
    output.finish(success=True)
    assert output.succeeded()
    begun(job)
    assert not output.succeeded()
    output.finish(success=False)
    assert not output.succeeded()


def test_finishing_clears_up_and_leaves_the_rest(job: Job, out: str) -> None:
    output = begun(changed(job, out=out))
    Storage().write({join(output.scratch, "plan/000000.shards"): b"x", join(out, "mine"): b"y"})
    output.finish(success=True)
    assert Storage().names(out) == ["_SUCCESS", "job.json", "mine"]


def test_success_is_written_after_everything_else(job: Job) -> None:
    run_job(job)
    times = {path: path.stat().st_mtime_ns for path in Path(job.out).rglob("*") if path.is_file()}
    assert max(times, key=times.__getitem__) == Path(job.out, "_SUCCESS")


def test_a_run_that_fails_is_not_marked_complete(job: Job) -> None:
    run_job(job)
    assert Path(job.out, "_SUCCESS").exists()
    for number in range(8, 12):
        (Path(job.source) / f"{number:03d}.jpg").write_bytes(b"no image")
    summary = run_job(job)
    assert not summary.succeeded
    assert not Path(job.out, "_SUCCESS").exists()


def test_overwriting_replaces_all_results(job: Job) -> None:
    run_job(job)
    before = [path.read_bytes() for path in sorted(Path(job.out, "images").iterdir())]
    summary = run_job(changed(job, style="green", overwrite=True))
    assert (summary.new_done, summary.rows) == (8, 8)
    after = [path.read_bytes() for path in sorted(Path(job.out, "images").iterdir())]
    assert len(after) == 8
    assert not set(after) & set(before)
    table = ledger_of(job.out)
    assert table.column("style").to_pylist() == ["green"] * 8
    assert run_job(changed(job, style="green")).new_done == 0


def test_overwriting_with_fewer_rows_keeps_no_old_rows_in_the_way(job: Job) -> None:
    run_job(job)
    (Path(job.source) / "000.jpg").write_bytes(jpeg(seed=50))
    summary = run_job(changed(job, style="green", limit=2, overwrite=True))
    assert (summary.rows, summary.done) == (2, 2)
    assert run_job(changed(job, style="green")).new_done == 6
