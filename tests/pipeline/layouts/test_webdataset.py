"""Results as WebDataset tars, as the library of that name reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import webdataset

from pipeline.errors import RequestError
from pipeline.job import Job
from tests.conftest import jpeg
from tests.pipeline.layouts.packing import assert_sound, labelled, packed_files
from tests.pipeline.runs import changed, ledger_of, run_job, write_tar


@pytest.fixture
def packed(job: Job) -> Job:
    """A job for eight photos, in tars of four."""
    return changed(job, layout="webdataset")


def samples(job: Job) -> dict[str, dict[str, Any]]:
    """What the library finds in the tars of a job on disk, by key."""
    paths = [str(Path(job.out, "shards", name)) for name in packed_files(job)]
    read = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    by_key = {sample["__key__"]: sample for sample in read}
    assert len(by_key) == len(read)
    return by_key


def test_the_library_reads_image_row_and_label(packed: Job) -> None:
    job = labelled(packed, label=["cat", "dog", None], cls=[2, 0, 1], txt=["a cat", None, ""])
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
    job = labelled(packed, **columns)
    run_job(job)
    told = samples(job)["000"]["json"]
    assert told["when"].startswith("2026-01-02 00:00:00")
    assert (told["price"], told["kind"]) == ("1.50", "cat")
    assert told["boxes"] == [{"x": 0.5, "label": "cat"}]
    assert not told.keys() & {"mask", "masks"}
    assert ledger_of(job.out)["mask"].to_pylist() == [b"\0\1"]


def test_odd_values_of_columns_do_not_stop_a_run(packed: Job) -> None:
    raw = pa.array([b"a", b"\xff", b"c"])
    columns = {
        "when": pa.array([0, 1, 2], pa.timestamp("us", "Foo/Bar")),
        "broken": pa.Array.from_buffers(pa.string(), 3, raw.buffers()),
        "json": ["[" * 100_000, '{"a": 1}', None],
        "score": [float("nan"), float("inf"), 0.5],
        "cls": [2.0, None, 0.0],
        "txt": [[1, None], None, []],
    }
    job = labelled(packed, **columns)
    run_job(job)
    read = samples(job)
    assert read["000"]["json"]["when"] == "1970-01-01 00:00:00.000000Z"
    assert [read[key]["json"]["score"] for key in sorted(read)] == [None, None, 0.5]
    assert [read[key].get("cls") for key in sorted(read)] == [2, None, 0]
    assert read["000"]["txt"] == "[1, null]"
    assert read["001"]["json"]["a"] == 1


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


def test_results_are_not_taken_for_sources(packed: Job, tmp_path: Path) -> None:
    write_tar(tmp_path / "all" / "in.tar", {"a.jpg": jpeg(seed=1)})
    out = str(tmp_path / "all" / "out")
    job = changed(packed, source=str(tmp_path / "all" / "**" / "*.tar"), out=out)
    for _ in range(2):
        assert run_job(job).rows == 1
    with pytest.raises(RequestError, match="would put results among the tars"):
        run_job(changed(packed, source=f"{out}/shards/*.tar", out=out))


def test_no_two_rows_become_one_sample(packed: Job) -> None:
    folder = Path(packed.source)
    names = ["a.b.jpg", "a_b.jpg", "a.jpg", "a.jpeg", "a.png", ".h.jpg", "d.e/a.jpg", ".k/b.jpg"]
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
    assert {"a", "a_v1", "a_b", "d.e/a", "d.e/a_v1", "_h", "_k/b"} <= read.keys()
    assert_sound(job)


def test_samples_that_stay_keep_all_their_files(packed: Job) -> None:
    job = labelled(packed, cls=[4, 5, 6, 7], label=["a", "b", "c", "d"])
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
