"""Labels that are corrected, boxes that are added: the manifest's own columns by now."""

from __future__ import annotations

import datetime
import decimal
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.carried import fingerprints
from pipeline.errors import RequestError
from pipeline.job import FOLDERS, Job
from pipeline.run import prepare, preview
from pipeline.shard import ShardWorker
from pipeline.spool import read_shard
from pipeline.storage import Storage
from pipeline.url import join
from tests.conftest import jpeg
from tests.pipeline.layouts.packing import assert_sound, labelled
from tests.pipeline.runs import changed, ledger_of, plan_job, run_job

COLUMNS: dict[str, pa.Array] = {
    "int": pa.array([1, None, 0, -1]),
    "float": pa.array([1.5, None, 0.0, float("nan")]),
    "half": pa.array(np.float16([1.5, 0, 2, 3])),
    "bool": pa.array([True, None, False]),
    "text": pa.array(["a", None, "", "é"]),
    "large text": pa.array(["a", None, "", "b"], pa.large_string()),
    "bytes": pa.array([b"a", None, b"", b"\0"]),
    "three bytes": pa.array([b"abc", None, b"abd"], pa.binary(3)),
    "decimal": pa.array([decimal.Decimal("1.20"), None, decimal.Decimal("0.00")]),
    "nanoseconds": pa.array([1, None, 0, 2], pa.timestamp("ns")),
    "day": pa.array([datetime.date(2026, 1, 1), None, datetime.date(1970, 1, 1)]),
    "span": pa.array([1, None, 0], pa.duration("s")),
    "dictionary": pa.array(["a", None, "", "b"]).dictionary_encode(),
    "list": pa.array([[1, 2], None, [], [2, 1], [1], [1, None]]),
    "large list": pa.array([["a"], None, [], [""]], pa.large_list(pa.string())),
    "box": pa.array([[1, 2], None, [2, 1]], pa.list_(pa.int64(), 2)),
    "boxes": pa.array([[[1.0], [2.0, 3.0]], None, [[1.0, 2.0], [3.0]], [[]], []]),
    "struct": pa.array([{"x": [1], "y": "a"}, None, {"x": None, "y": "a"}, {"x": [], "y": "a"}]),
    "map": pa.array([[("a", 1)], None, [], [("b", 2), ("c", 3)]], pa.map_(pa.string(), pa.int64())),
}


def of(*columns: pa.Array) -> list[int]:
    table = pa.table(list(columns), [str(number) for number in range(len(columns))])
    found: list[int] = fingerprints(table).tolist()
    return found


@pytest.mark.parametrize("kind", COLUMNS)
def test_values_are_told_apart_wherever_they_lie(kind: str) -> None:
    column = COLUMNS[kind]
    whole = of(column)
    assert len(set(whole)) == len(column)
    assert of(column.slice(1, 2)) == whole[1:3]
    assert of(pa.concat_arrays([column.slice(1), column.slice(0, 1)])) == [*whole[1:], whole[0]]


def test_the_same_in_another_column_is_not_the_same() -> None:
    a, b = pa.array(["a"]), pa.array(["b"])
    assert of(a, b) != of(b, a)
    assert of(a, pa.nulls(1, pa.string())) != of(pa.nulls(1, pa.string()), a)


@pytest.fixture(params=FOLDERS)
def anyhow(request: pytest.FixtureRequest, job: Job) -> Job:
    """The job, in each layout."""
    return changed(job, layout=request.param)


def files_of(job: Job) -> dict[Path, int]:
    """When the files of results were written."""
    return {path: path.stat().st_mtime_ns for path in Path(job.folder).rglob("*.*")}


def test_labels_that_were_corrected_are_so_in_the_ledger_and_beside_the_images(
    anyhow: Job,
) -> None:
    boxes = [[[1, 2], [3, 4]], None, [], [[5, 6]], [[7]], [[8]]]
    first = run_job(labelled(anyhow, label=list("abcdef"), box=boxes))
    assert (first.done, first.updated) == (6, 0)
    before, files = ledger_of(anyhow.out), files_of(anyhow)

    boxes[1], boxes[3] = [[9]], [[6, 5]]
    job = labelled(anyhow, label=list("abcdxf"), box=boxes)
    second = run_job(job)
    assert (second.done, second.new_done, second.updated) == (6, 0, 3)
    assert str(second) == "6 of 6 stylized; 3 rows brought up to date with the manifest"
    after = ledger_of(anyhow.out)
    assert after["label"].to_pylist() == list("abcdxf")
    assert after["box"].to_pylist() == boxes
    same = [name for name in before.column_names if name not in ("label", "box")]
    packed = {"output_uri", "output_offset"} if anyhow.layout != "files" else set()
    same = [name for name in same if name not in packed]
    assert after.select(same).equals(before.select(same))  # each was stylized once
    assert (files_of(anyhow) == files) == (anyhow.layout == "files")
    assert_sound(anyhow)
    anew = changed(job, out=f"{job.out}2")
    run_job(anew)
    assert beside_images(job) == beside_images(anew)

    third = run_job(job)
    assert (third.done, third.updated) == (6, 0)
    assert str(third) == "6 of 6 stylized; nothing was left to do"


def beside_images(job: Job) -> list[Any]:
    """What the packed files themselves say, and their images."""
    found: list[Any] = []
    for path in Path(job.folder).glob("*.parquet"):
        found += [tuple(row.items()) for row in pq.read_table(path).to_pylist()]
    for path in Path(job.folder).glob("*.tar"):
        with tarfile.open(path) as archive:
            found += [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    return sorted(found, key=str)


def test_a_photo_that_changed_is_done_again_beside_them(anyhow: Job) -> None:
    run_job(labelled(anyhow, label=list("abcd")))
    Path(anyhow.source, "001.jpg").write_bytes(jpeg(seed=40))
    Path(anyhow.source, "002.jpg").write_bytes(b"no image")
    summary = run_job(labelled(anyhow, label=list("xyzd")))
    assert (summary.new_done, summary.new_failed, summary.updated) == (1, 1, 1)
    rows = ledger_of(anyhow.out)
    assert rows["label"].to_pylist() == list("xyzd")
    assert rows["status"].to_pylist() == ["done", "done", "failed", "done"]
    assert rows["attempts"].to_pylist() == [1, 2, 2, 1]


def test_a_bad_image_is_not_tried_again_for_its_label(job: Job) -> None:
    Path(job.source, "001.jpg").write_bytes(b"no image")
    run_job(labelled(job, label=list("abcd")))
    summary = run_job(labelled(job, label=list("axyd")))
    assert (summary.done, summary.failed, summary.updated) == (3, 1, 1)
    assert ledger_of(job.out)["attempts"].to_pylist() == [1, 1, 1, 1]


def test_types_stay_and_what_is_the_same_counts_as_the_same(job: Job) -> None:
    columns: dict[str, Any] = {name: column.slice(0, 3) for name, column in COLUMNS.items()}
    run_job(labelled(job, **columns))
    assert run_job(labelled(job, **columns)).updated == 0
    columns["int"] = [1, 2, 3]
    assert run_job(labelled(job, **columns)).updated == 2
    rows = ledger_of(job.out)
    for name in COLUMNS.keys() - {"int", "large text"}:
        assert rows[name].type == columns[name].type
        assert of(rows[name].combine_chunks()) == of(columns[name]), name


def table(job: Job, columns: pa.Table) -> Job:
    """The job with ``columns`` for as many of its photos."""
    uris = pa.array([f"{number:03d}.jpg" for number in range(len(columns))])
    pq.write_table(columns.append_column("uri", uris), Path(job.source) / "m.parquet")
    return changed(job, source=f"{job.source}/m.parquet")


@pytest.mark.parametrize(
    "when", ["2024-05-01 10:00:00", "2024-05-01 10:00:00Z", "2024-05-01", "10:00:00", "0.1", "true"]
)
def test_what_a_csv_is_taken_for_is_the_same_every_night(job: Job, when: str) -> None:
    source = Path(job.source) / "m.csv"
    source.write_text("uri\n000.jpg\n001.jpg\n")
    job = changed(job, source=str(source))
    run_job(job)
    source.write_text(f"uri,when\n000.jpg,\n001.jpg,\n002.jpg,{when}\n")
    assert run_job(job).new_done == 1
    assert str(run_job(job)) == "3 of 3 stylized; nothing was left to do"
    source.write_text(f"uri,when\n000.jpg,{when}\n001.jpg,\n002.jpg,{when}\n")
    assert run_job(job).updated == 1
    values = ledger_of(job.out)["when"].to_pylist()
    assert values[0] == values[2] is not None
    assert values[1] is None


def test_times_within_lists_are_the_same_every_night(job: Job) -> None:
    times = pa.array([[0, None], [], None], pa.list_(pa.timestamp("s")))
    job = table(job, pa.table({"times": times}))
    assert run_job(job).done == 3
    assert run_job(job).updated == 0


def test_many_categories_are_renamed(anyhow: Job) -> None:
    """80 and 80: more than the numbers with which pandas writes them down."""
    names, more = ([f"{word} {number}" for number in range(8)] for word in ("class", "kind"))

    def categories(names: list[str], besides: str) -> pa.Table:
        words = pa.array([*names, *(f"{besides} {number}" for number in range(72))])
        indices = pa.array(range(8), pa.int8())
        return pa.table({"label": pa.DictionaryArray.from_arrays(indices, words)})

    run_job(table(anyhow, categories(names, "no such")))
    job = table(anyhow, categories(more, "nor such"))
    assert run_job(job).updated == 8
    assert run_job(job).updated == 0
    assert ledger_of(job.out)["label"].to_pylist() == more
    assert pa.types.is_dictionary(ledger_of(job.out)["label"].type)
    assert_sound(job)


def test_parts_of_before_are_read_as_columns_are_carried_now(job: Job) -> None:
    first = table(job, pa.table({"label": pa.array(["a", "b"]).dictionary_encode()}))
    run_job(first)
    (path,) = Path(job.out, "metadata").iterdir()
    part = pq.read_table(path)
    field = pa.field("label", pa.dictionary(pa.int8(), pa.string()))
    index = part.schema.get_field_index("label")
    pq.write_table(part.set_column(index, field, part["label"].cast(field.type)), path)
    record = Path(job.out, "job.json")
    record.write_text(record.read_text().replace("indices=int32", "indices=int8"))
    assert run_job(first).updated == 0
    second = table(job, pa.table({"label": pa.array(["a", "c"]).dictionary_encode()}))
    assert run_job(second).updated == 1
    assert ledger_of(job.out)["label"].to_pylist() == ["a", "c"]


def test_texts_that_are_not_utf8_are_bytes_like_others(job: Job) -> None:
    offsets = pa.py_buffer(np.int32([0, 1, 2]).tobytes())
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    first = table(job, pa.table({"label": bad}))
    run_job(first)
    assert run_job(first).updated == 0
    assert run_job(table(job, pa.table({"label": bad.take([1, 1])}))).updated == 1


def test_a_type_that_the_ledger_cannot_have_is_refused_by_its_column(job: Job) -> None:
    source = Path(job.source) / "m.jsonl"
    source.write_text('{"uri": "000.jpg", "notes": {}}\n')
    with pytest.raises(RequestError, match=r"column 'notes' is struct<>, which the ledger cannot"):
        prepare(changed(job, source=str(source)))


def test_images_of_tars_keep_their_ids_when_a_label_beside_them_changes(
    job: Job, tmp_path: Path
) -> None:
    first = changed(job, layout="webdataset")
    run_job(labelled(first, label=list("abcd")))
    out = str(tmp_path / "second")
    second = changed(job, source=f"{first.out}/shards/*.tar", out=out, layout="webdataset")
    run_job(second)
    run_job(labelled(first, label=list("abcx")))
    assert run_job(second).done == len(ledger_of(out)) == 4
    assert '"label": "x"' in "".join(ledger_of(out)["json"].to_pylist())
    assert_sound(second)


def test_a_worker_that_dies_after_its_commit_miscounts_nothing(anyhow: Job) -> None:
    """Its shard is done once more by another."""
    run_job(labelled(anyhow, label=list("abcd")))
    request, (ref,) = plan_job(labelled(anyhow, label=list("wbyz")))
    rows = read_shard(request.storage, ref)
    for updated in (3, 0):
        worker = ShardWorker(request.job, request.pack, request.storage)
        result = worker.run(ref.key, rows, lambda done, failed: None)
        assert (result.done, result.failed, result.updated) == (3, 0, updated)
    assert_sound(anyhow)


def test_on_s3_too(job: Job, s3: str) -> None:
    job = changed(job, out=join(s3, "out"), layout="webdataset")
    run_job(labelled(job, label=list("abcd")))
    assert run_job(labelled(job, label=list("abcx"))).updated == 1
    assert_sound(job)
    assert not Storage().names(join(job.out, ".restyle"))


def test_the_plan_says_what_is_to_be_updated(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(labelled(job, label=list("abcd")))
    later = labelled(job, label=list("abxyef"))
    plan = preview(prepare(later))
    assert (plan.done, plan.left, plan.outdated, plan.to_do) == (2, 4, 2, 2)
    new = [os.stat(f"{job.source}/{number:03d}.jpg").st_size for number in (4, 5)]
    assert plan.left_bytes == sum(new)
    flags = ["--style", "red", "--pack", job.pack, "--size", "64", "--device", "cpu"]
    assert main(["plan", later.source, "--out", job.out, *flags]) == 0
    said = capsys.readouterr().out
    assert "left to do     2" in said
    assert "to be updated  2: their own columns have other values in the manifest by now" in said


def test_a_csv_may_become_a_table_of_pandas_or_polars(job: Job) -> None:
    source = Path(job.source) / "m.csv"
    source.write_text("uri,label\n000.jpg,a\n001.jpg,b\n")
    run_job(changed(job, source=str(source)))
    large = pa.table({"label": pa.array(["a", "x"], pa.large_string())})
    assert run_job(table(job, large)).updated == 1
    assert ledger_of(job.out)["label"].to_pylist() == ["a", "x"]
    assert ledger_of(job.out)["label"].type == pa.string()


def test_a_csv_that_is_not_utf8_is_refused(job: Job) -> None:
    source = Path(job.source) / "m.csv"
    source.write_bytes("uri,label\n000.jpg,Müller\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"m\.csv cannot be read: column 'label' is not UTF-8"):
        prepare(changed(job, source=str(source)))
