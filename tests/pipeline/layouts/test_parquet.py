"""Results as Parquet tables."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.job import Job
from tests.conftest import jpeg, open_image
from tests.pipeline.layouts.packing import assert_sound, labelled
from tests.pipeline.runs import changed, ledger_of, run_job


@pytest.fixture
def table(job: Job) -> Job:
    """A job for eight photos, in tables of four."""
    return changed(job, layout="parquet")


def read(job: Job) -> pa.Table:
    return pq.read_table(Path(job.out, "shards")).sort_by([("id", "ascending")])


def test_a_row_has_its_image_and_what_belongs_to_it(table: Job) -> None:
    columns = {
        "label": pa.array([3, None, 1], pa.int8()),
        "boxes": [[[0.5, 1.0]], [], None],
        "mask": [b"a", b"b", None],
        "kind": pa.array(["cat", "dog", "cat"]).dictionary_encode(),
    }
    job = labelled(table, **columns)
    run_job(job)
    rows = read(job)
    names = ["id", "variant", "style", "strength", "seed", "source_uri"]
    assert rows.column_names == ["image", *names, *columns]
    ledger = ledger_of(job.out)
    assert rows.select(names).equals(ledger.select(names))
    for name in ("label", "boxes", "mask"):
        assert rows[name].equals(ledger[name])
    assert rows["kind"].to_pylist() == ["cat", "dog", "cat"]
    images = rows["image"].to_pylist()
    assert [image["path"] for image in images] == ["000.jpg", "001.jpg", "002.jpg"]
    assert {open_image(image["bytes"]).shape for image in images} == {(64, 64, 3)}


def test_other_programs_read_it(table: Job) -> None:
    run_job(table)
    found = duckdb.sql(
        f"select id, image.bytes from '{table.out}/shards/*.parquet' order by id"
    ).fetchall()
    assert [name for name, _ in found] == [f"{number:03d}.jpg" for number in range(8)]
    assert len({open_image(image).tobytes() for _, image in found}) == 8


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_images_that_are_alike_and_large_are_found(table: Job, image_format: str) -> None:
    same = jpeg(seed=5)
    for number in (1, 2, 5):
        (Path(table.source) / f"00{number}.jpg").write_bytes(same)
    (Path(table.source) / "003.jpg").write_bytes(jpeg(1500, 1200, seed=6))
    job = changed(table, size="native", format=image_format, shard_size=8)
    run_job(job)
    assert_sound(job)
    assert len(set(ledger_of(job.out)["output_offset"].to_pylist())) == 8
    assert open_image(read(job)["image"][3].as_py()["bytes"]).shape == (1200, 1500, 3)


def test_columns_come_and_go_with_the_manifest(table: Job) -> None:
    job = labelled(table, label=["a", "b", "c", "d"], old=[1, 2, 3, 4])
    run_job(job)
    (Path(job.source).parent / "002.jpg").write_bytes(jpeg(seed=60))
    run_job(labelled(table, label=["a", "b", "c", "d"], new=[0.5, 1.5, 2.5, 3.5]))
    assert_sound(job)
    rows = read(job)
    assert rows["label"].to_pylist() == ["a", "b", "c", "d"]
    assert rows["new"].to_pylist() == [0.5, 1.5, 2.5, 3.5]
    assert "old" not in rows.column_names


def test_a_column_image_of_the_manifest_is_refused(table: Job) -> None:
    job = labelled(table, image=["a"])
    with pytest.raises(RequestError, match="column 'image'"):
        run_job(job)
    assert run_job(changed(job, layout="webdataset")).done == 1


def test_a_row_group_is_a_small_part_of_it(table: Job) -> None:
    """So that a reader of a few rows need not have all."""
    folder = Path(table.source)
    for number in range(8, 80):
        (folder / f"{number:03d}.jpg").write_bytes(jpeg(seed=number))
    run_job(changed(table, shard_size=80))
    (path,) = Path(table.out, "shards").iterdir()
    file = pq.ParquetFile(path)
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert (sum(sizes), max(sizes)) == (80, 32)
    assert np.all(np.diff(ledger_of(table.out)["output_offset"].to_numpy()) > 0)
