from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import claim as claim_module
from pipeline import shard as shard_module
from pipeline.claim import TakenOver
from pipeline.codec import encode
from pipeline.errors import RowError, SystemFault
from pipeline.items import Item
from pipeline.job import FOLDERS, Job
from pipeline.ledger import LEDGER_SCHEMA, Ledger
from pipeline.run import begin, prepare
from pipeline.shard import ShardWorker
from pipeline.spool import read_shard
from pipeline.storage import Source, Storage, disk
from pipeline.styles.mix import Mix
from pipeline.styles.pack import find_pack
from pipeline.stylizer import Stylizer
from pipeline.url import join
from pipeline.verify import verify
from tests.conftest import jpeg, open_image, picture, write_photos
from tests.pipeline.runs import changed, ledger_of, manifest, plan_job, run_job, write_tar
from tests.pipeline.servers import files, serving
from tests.processes import wait_until


def result(job: Job, name: str) -> bytes:
    return (Path(job.out) / "images" / name).read_bytes()


def rows_of(job: Job) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in ledger_of(job.out).to_pylist()}


def stamps(folder: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*.*")}


def test_results_have_reached_the_disk_when_the_ledger_says_so(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that order; that a disk keeps it was tried with one that loses power: docs/proof.md."""
    seen: list[tuple[int, int]] = []
    settle = disk.settle

    def spy(path: str) -> None:
        out = Path(job.out)
        seen.append((len(list(out.glob("images/*"))), len(list(out.glob("metadata/*")))))
        settle(path)

    monkeypatch.setattr(disk, "settle", spy)
    run_job(job)
    # job.json, one shard, the other, and that all is done.
    assert sorted(set(seen)) == [(0, 0), (4, 0), (8, 1), (8, 2)]


@pytest.mark.parametrize("sizes_known", [True, False])
def test_large_files_are_fetched_by_few(
    job: Job, sizes_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(Path(job.source).glob("*.jpg"))
    size = min(path.stat().st_size for path in paths)
    monkeypatch.setattr(shard_module, "CHUNK_BYTES", 2 * size)
    monkeypatch.setattr(shard_module, "UNKNOWN_BYTES", size)
    asked: list[int] = []
    read = Storage.read

    def spy(storage: Storage, sources: Sequence[Source]) -> list[bytes | RowError]:
        asked.append(len(sources))
        return read(storage, sources)

    monkeypatch.setattr(Storage, "read", spy)
    if sizes_known:
        assert run_job(changed(job, shard_size=8)).done == 8
    else:
        with serving(files({f"/{path.name}": path.read_bytes() for path in paths})) as server:
            job = manifest(job, [f"{server.url}/{path.name}" for path in paths])
            job = changed(job, shard_size=8, allow_scheme=["http"], allow_private=True)
            assert run_job(job).done == 8
    assert max(asked) == 2


def test_a_worker_that_was_given_up_puts_nothing_over_others_results(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(shard_module, "CHECKED", 0.0)
    request = prepare(job)
    _, (ref, *_) = begin(request)
    worker = ShardWorker(request.job, request.pack, request.storage)
    stylize = worker._stylize

    def stand_still(batch: list[Item]) -> list[Item]:
        request.claim.release()
        run_job(changed(job, style="green", overwrite=True))
        return stylize(batch)

    monkeypatch.setattr(worker, "_stylize", stand_still)
    with pytest.raises(TakenOver):
        worker.run(ref.key, read_shard(request.storage, ref), lambda *_: None, claim=ref.claim)
    assert verify(Storage(), job.out, lambda rows: None).findings == []


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_column_that_is_never_null_may_come_later(job: Job, layout: str) -> None:
    job = changed(job, layout=layout)
    uris = [f"{number:03d}.jpg" for number in range(4)]
    run_job(manifest(job, uris))
    Path(job.source, "001.jpg").write_bytes(jpeg(seed=40))
    field = pa.field("label", pa.int64(), nullable=False)
    table = pa.table([uris, [1, 2, 3, 4]], schema=pa.schema([pa.field("uri", pa.string()), field]))
    pq.write_table(table, Path(job.source) / "m.parquet")
    summary = run_job(changed(job, source=f"{job.source}/m.parquet"))
    assert (summary.new_done, summary.updated) == (1, 3)
    assert ledger_of(job.out)["label"].to_pylist() == [1, 2, 3, 4]


def test_every_photo_gets_a_result_of_its_own(job: Job) -> None:
    summary = run_job(changed(job, size="80x48"))
    assert (summary.rows, summary.done, summary.failed, summary.shards) == (8, 8, 0, 2)
    results = [open_image(result(job, f"{number:03d}.jpg")) for number in range(8)]
    assert {picture.shape for picture in results} == {(48, 80, 3)}
    assert len({picture.tobytes() for picture in results}) == 8


def test_the_ledger_tells_all_of_a_result(job: Job) -> None:
    write_photos(Path(job.source), 1, size=100)
    summary = run_job(job)
    pack = find_pack(job.pack)
    assert ledger_of(job.out).schema.equals(LEDGER_SCHEMA)
    for row_id, row in rows_of(job).items():
        source = (Path(job.source) / row_id).read_bytes()
        data = (Path(job.out) / row["output_uri"]).read_bytes()
        side = 100 if row_id == "000.jpg" else 64
        assert row["output_uri"] == f"images/{row_id}"
        assert row["output_bytes"] == len(data)
        assert row["output_sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["output_width"], row["output_height"]) == (64, 64)
        assert row["source_uri"] == str(Path(job.source) / row_id)
        assert row["source_size"] == len(source)
        assert row["source_sha256"] == hashlib.sha256(source).hexdigest()
        assert row["source_etag"] == str((Path(job.source) / row_id).stat().st_mtime_ns)
        assert row["source_format"] == "JPEG"
        assert (row["source_width"], row["source_height"]) == (side, side)
        assert (row["status"], row["attempts"], row["variant"]) == ("done", 1, 0)
        assert (row["style"], row["strength"], row["seed"]) == ("red", 1.0, 0)
        assert row["error_class"] is row["error_stage"] is row["error_message"] is None
        assert row["model_digest"] == hashlib.sha256(pack.path.read_bytes()).hexdigest()
        assert row["job_digest"] == job.digest(pack.digest)
        assert datetime.now(UTC) - row["finished_at"] < timedelta(minutes=5)
    parts = {path.stem for path in Path(job.out, "metadata").iterdir()}
    assert {row["shard"] for row in rows_of(job).values()} == parts
    assert summary.output_bytes == sum(row["output_bytes"] for row in rows_of(job).values())
    assert summary.output_pixels == 8 * 64 * 64


def test_a_bad_image_is_a_failed_row_and_the_others_are_done(job: Job) -> None:
    photos = Path(job.source)
    (photos / "001.jpg").write_bytes(b"")
    (photos / "002.jpg").write_bytes(b"<!doctype html><p>404</p>")
    (photos / "003.jpg").write_bytes(jpeg()[:200])
    (photos / "005.jpg").unlink()
    (photos / "006.jpg").write_bytes(jpeg(300, 300))
    job = changed(job, max_pixels=80_000)
    summary = run_job(manifest(job, [f"{number:03d}.jpg" for number in range(8)]))
    assert (summary.done, summary.failed) == (3, 5)
    rows = rows_of(job)
    told = {
        row_id: (row["error_class"], row["error_stage"], row["error_message"])
        for row_id, row in rows.items()
        if row["status"] == "failed"
    }
    assert told["001.jpg"] == ("input", "decode", "the file is empty")
    assert told["002.jpg"] == ("input", "decode", "not an image but a web page")
    assert told["003.jpg"][:2] == ("input", "decode")
    assert told["005.jpg"] == ("storage", "fetch", "there is no such file")
    assert told["006.jpg"][:2] == ("resource", "decode")
    assert "300x300" in told["006.jpg"][2]
    assert sorted(path.name for path in Path(job.out, "images").iterdir()) == [
        "000.jpg", "004.jpg", "007.jpg",
    ]  # fmt: skip
    assert all(rows[row_id]["output_uri"] is None for row_id in told)
    assert (
        rows["002.jpg"]["source_sha256"] == hashlib.sha256(b"<!doctype html><p>404</p>").hexdigest()
    )
    assert {failure.id for failure in summary.failures} == set(told)
    assert sum(summary.reasons.values()) == 5


def test_a_shard_of_bad_images_alone_is_committed(job: Job) -> None:
    for path in Path(job.source).iterdir():
        path.write_bytes(b"no image")
    assert run_job(job).failed == 8
    assert {row["status"] for row in rows_of(job).values()} == {"failed"}


def test_rows_that_are_done_are_left_alone(job: Job) -> None:
    request, refs = plan_job(job)
    worker = ShardWorker(request.job, request.pack, request.storage)
    rows = read_shard(request.storage, refs[0])
    worker.run(refs[0].key, rows, lambda done, failed: None)
    before = stamps(job.out)
    again = worker.run(refs[0].key, rows, lambda done, failed: None)
    assert (again.done, again.failed, again.output_bytes) == (4, 0, 0)
    assert stamps(job.out) == before


def test_rows_that_are_done_are_left_alone_though_their_address_holds_a_secret(job: Job) -> None:
    with serving(files({"/a.jpg": jpeg()})) as server:
        job = changed(
            manifest(job, [f"{server.url}/a.jpg?signature=xyz"]),
            allow_scheme=["http"],
            allow_private=True,
        )
        request, (ref,) = plan_job(job)
        worker = ShardWorker(request.job, request.pack, request.storage)
        rows = read_shard(request.storage, ref)
        assert worker.run(ref.key, rows, lambda done, failed: None).done == 1
        before = stamps(job.out)
        worker.run(ref.key, rows, lambda done, failed: None)
        assert stamps(job.out) == before


def test_no_secret_of_an_address_is_kept(job: Job) -> None:
    with serving(files({"/a.jpg": jpeg()})) as server:
        host = server.url.removeprefix("http://")
        uris = [f"http://me:hush@{host}/{name}.jpg?signature=xyz" for name in ("a", "none")]
        job = changed(manifest(job, uris), allow_scheme=["http"], allow_private=True)
        summary = run_job(job)
    assert (summary.done, summary.failed) == (1, 1)
    everything = str(ledger_of(job.out).to_pylist()) + str(summary)
    everything += str(list(Path(job.out).rglob("*"))) + str(summary.failures)
    assert "hush" not in everything
    assert "xyz" not in everything


def test_a_source_that_is_new_or_changed_is_done_and_nothing_else(job: Job) -> None:
    run_job(job)
    before = stamps(str(Path(job.out, "images")))
    write_photos(Path(job.source), 1, first=8)
    (Path(job.source) / "002.jpg").write_bytes(jpeg(seed=99))
    summary = run_job(job)
    assert (summary.rows, summary.done, summary.new_done) == (9, 9, 2)
    after = stamps(str(Path(job.out, "images")))
    names = {Path(path).name for path in after if before.get(path) != after[path]}
    assert names == {"002.jpg", "008.jpg"}
    rows = rows_of(job)
    assert len(rows) == 9
    assert rows["002.jpg"]["source_sha256"] == hashlib.sha256(jpeg(seed=99)).hexdigest()
    assert [rows[row_id]["attempts"] for row_id in ("001.jpg", "002.jpg", "008.jpg")] == [1, 2, 1]


def test_a_row_that_succeeds_at_last_has_no_error_left(job: Job) -> None:
    photo = Path(job.source) / "003.jpg"
    data = photo.read_bytes()
    photo.unlink()
    job = manifest(job, [f"{number:03d}.jpg" for number in range(4)])
    assert run_job(job).failed == 1
    photo.write_bytes(data)
    summary = run_job(job)
    assert (summary.done, summary.failed, summary.new_done) == (4, 0, 1)
    row = rows_of(job)["003.jpg"]
    assert (row["status"], row["attempts"], row["error_message"]) == ("done", 2, None)


def test_a_job_done_twice_gives_the_same_bytes(job: Job) -> None:
    run_job(job)
    first = {number: result(job, f"{number:03d}.jpg") for number in range(8)}
    shutil.rmtree(job.out)
    run_job(job)
    assert {number: result(job, f"{number:03d}.jpg") for number in range(8)} == first


def results_by_shard_size(job: Job, *sizes: int) -> list[np.ndarray]:
    found = []
    for size in sizes:
        shutil.rmtree(job.out, ignore_errors=True)
        run_job(changed(job, shard_size=size, format="png"))
        results = [open_image(result(job, f"{number:03d}.jpg.png")) for number in range(8)]
        found.append(np.stack(results).astype(int))
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("style", ["red", "red:1+blue:2", "red,green,blue"])
def test_a_result_does_not_depend_on_the_shard(job: Job, precision: str, style: str) -> None:
    job = changed(job, precision=precision, style=style)
    alone, together, mixed = results_by_shard_size(job, 1, 8, 3)
    assert np.abs(alone - together).max() <= 1
    assert np.abs(alone - mixed).max() <= 1
    assert (alone != together).mean() < 0.001


def test_the_number_of_threads_changes_nothing(job: Job) -> None:
    job = changed(job, shard_size=8)
    request, (ref,) = plan_job(job)
    rows = read_shard(request.storage, ref)
    digests = []
    for threads in (1, 3):
        worker = ShardWorker(request.job, request.pack, request.storage, threads)
        worker.run(ref.key, rows, lambda done, failed: None)
        digests.append([row["output_sha256"] for row in rows_of(job).values()])
        shutil.rmtree(Path(job.out, "metadata"))
    assert digests[0] == digests[1]


def test_photos_of_different_shapes_keep_their_own(job: Job) -> None:
    photos = Path(job.source)
    shapes = [(64, 48), (48, 64), (48, 64), (33, 47), (1, 1), (5, 90), (64, 64), (64, 48)]
    for number, (width, height) in enumerate(shapes):
        (photos / f"{number:03d}.jpg").write_bytes(jpeg(width, height, number))
    assert run_job(changed(job, size="native", shard_size=8)).done == 8
    rows = rows_of(job)
    for number, (width, height) in enumerate(shapes):
        row = rows[f"{number:03d}.jpg"]
        assert (row["output_width"], row["output_height"]) == (width, height)
        assert open_image(result(job, f"{number:03d}.jpg")).shape == (height, width, 3)


def test_photos_of_a_size_wait_for_each_other(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    request, _ = plan_job(job)
    worker = ShardWorker(request.job, request.pack, request.storage)
    monkeypatch.setattr(Stylizer, "batch_pixels", 2 * 100)
    monkeypatch.setattr("pipeline.shard.WAITING", 2)

    def batches(*sizes: int) -> list[list[int]]:
        """Positions of images of so many pixels, 0 for failed ones, by batch."""
        items = []
        for index, pixels in enumerate(sizes):
            item = Item(index, {}, Mix({}), 1.0, 0)
            item.pixels = np.zeros((1, pixels, 3), np.uint8) if pixels else None
            items.append(item)
        return [[item.index for item in batch] for batch in worker._batches(items)]

    assert batches(100, 50, 100, 50, 50) == [[0, 2], [1, 3, 4]]
    assert batches(100, 0, 100, 0) == [[1], [0, 2], [3]]
    # The longest waiting go where there would be too many pixels.
    assert batches(100, 99, 98, 97, 96, 100, 96) == [[0], [1], [4, 6], [2], [3], [5]]
    assert batches(50, 1000, 50, 1000) == [[1], [3], [0, 2]]


def test_strength_0_gives_the_photo(job: Job) -> None:
    photos = Path(job.source)
    shutil.rmtree(photos)
    photos.mkdir()
    (photos / "a.png").write_bytes(encode(picture(70, 50), "png", 100))
    run_job(changed(job, strength=0, size="native", format="png"))
    assert np.array_equal(open_image(result(job, "a.png")), picture(70, 50))


def test_rows_may_have_their_own_style_strength_and_seed(job: Job) -> None:
    names = [f"{number:03d}.jpg" for number in range(4)]
    job = changed(job, precision="fp32", style="red")
    own = manifest(
        job, names,
        style=["green", None, None, "red,green,blue"],
        strength=[None, 0.25, None, None],
        seed=pa.array([None, None, 7, 7], pa.int64()),
    )  # fmt: skip
    run_job(own)
    rows = rows_of(job)
    assert [rows[name]["style"] for name in names[:3]] == ["green", "red", "red"]
    assert [rows[name]["strength"] for name in names] == [1.0, 0.25, 1.0, 1.0]
    assert [rows[name]["seed"] for name in names] == [0, 0, 7, 7]
    mine = [result(job, name) for name in names]
    for settings, index in (({"style": "green"}, 0), ({"strength": 0.25}, 1), ({}, 2),
                            ({"style": "red,green,blue", "seed": 7}, 3)):  # fmt: skip
        shutil.rmtree(job.out)
        run_job(changed(job, **settings))
        assert result(job, names[index]) == mine[index]


def test_variants_take_the_styles_in_turn(job: Job) -> None:
    run_job(changed(job, variants=3, style="red,green,blue"))
    table = ledger_of(job.out)
    assert len(table) == 24
    for number in range(8):
        of_one = [row for row in table.to_pylist() if row["id"] == f"{number:03d}.jpg"]
        assert [row["variant"] for row in of_one] == [0, 1, 2]
        assert {row["style"] for row in of_one} == {"red", "green", "blue"}
        assert [row["output_uri"] for row in of_one] == [
            f"images/{number:03d}{variant}.jpg" for variant in ("", ".v1", ".v2")
        ]
    firsts = {row["style"] for row in table.to_pylist() if row["variant"] == 0}
    assert len(firsts) > 1


def test_carried_columns_keep_their_types_and_their_rows(job: Job) -> None:
    names = [f"{number:03d}.jpg" for number in range(8)]
    (Path(job.source) / "002.jpg").write_bytes(b"no image")
    columns = {
        "label": pa.array(range(8), pa.int16()),
        "boxes": pa.array([[{"name": name, "at": [1.5]}] for name in names]),
        "split": pa.array(["train", "test"] * 4).dictionary_encode(),
        "taken": pa.array([datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 9)]),
        "tags": pa.array([[("n", n)] for n in range(8)], pa.map_(pa.string(), pa.int32())),
        "mask": pa.array([bytes([n]) for n in range(8)], pa.binary(1)),
    }
    # What is empty has no type to keep yet.
    assert run_job(manifest(job, names, **columns, empty=pa.nulls(8))).done == 7
    table = ledger_of(job.out)
    assert table.column("id").to_pylist() == names
    assert table.column_names == [*LEDGER_SCHEMA.names, *columns]
    for name, column in columns.items():
        assert table.schema.field(name).type == column.type
        assert table.column(name).to_pylist() == column.to_pylist()


def test_a_column_that_is_new_is_filled_in_for_rows_done_before(job: Job) -> None:
    names = [f"{number:03d}.jpg" for number in range(4)]
    run_job(manifest(job, names))
    (Path(job.source) / "001.jpg").write_bytes(jpeg(seed=99))
    assert run_job(manifest(job, names, label=[1, 2, 3, 4])).new_done == 1
    assert ledger_of(job.out).column("label").to_pylist() == [1, 2, 3, 4]


def test_an_id_with_a_name_too_long_is_a_failed_row(job: Job) -> None:
    job = manifest(job, ["000.jpg", "001.jpg"], id=["x" * 300, "fine"])
    summary = run_job(job)
    assert (summary.done, summary.failed) == (1, 1)
    row = rows_of(job)["x" * 300]
    assert (row["error_class"], row["error_stage"]) == ("input", "fetch")
    assert "too long" in row["error_message"]


def test_an_id_too_long_for_the_bucket_is_a_failed_row(job: Job, s3: str) -> None:
    long = "/".join(["x" * 200] * 5)  # as long as a key may be, but not with what stands before
    job = manifest(
        changed(job, out=join(s3, "some/way/down")), ["000.jpg", "001.jpg"], id=[long, "fine"]
    )
    summary = run_job(job)
    assert (summary.done, summary.failed) == (1, 1)
    assert "too long" in summary.failures[0].message


def test_a_result_where_another_has_its_folder_costs_a_row_and_not_the_run(job: Job) -> None:
    job = manifest(job, ["000.jpg", "001.jpg", "002.jpg"], id=["a.jpg", "a.jpg/b.jpg", "c.jpg"])
    summary = run_job(job)
    assert (summary.done, summary.failed) == (2, 1)


def test_a_folder_that_cannot_be_written_to_is_a_fault_of_the_system(job: Job) -> None:
    plan_job(job)
    images = Path(job.out, "images")
    images.write_text("in the way")
    with pytest.raises(SystemFault, match="cannot write"):
        run_job(job)
    assert Ledger(Storage(), job.out).shards() == []
    images.unlink()
    assert run_job(job).done == 8


def test_a_fault_midway_leaves_nothing_of_the_shard_in_the_ledger(job: Job) -> None:
    rows = 120  # one shard; more than can be on their way when the first is told
    write_photos(Path(job.source), rows)
    job = changed(job, size="native", shard_size=rows)
    request, (ref,) = plan_job(job)
    lost: list[Path] = []
    images = Path(job.out, "images")
    in_the_way = Path(job.out, "in the way")
    in_the_way.touch()

    def lose_the_folder(done: int, failed: int) -> None:
        while done and images.is_dir():
            images.rename(images.with_name(f"elsewhere{len(lost)}"))
            lost.append(images)
            # Whoever writes at this moment may have made the folder again.
            with contextlib.suppress(FileExistsError):
                images.hardlink_to(in_the_way)

    worker = ShardWorker(request.job, request.pack, request.storage)
    with pytest.raises(SystemFault, match="cannot write"):
        worker.run(ref.key, read_shard(request.storage, ref), lose_the_folder)
    assert list(images.with_name("elsewhere0").iterdir())
    assert Ledger(Storage(), job.out).shards() == []
    images.unlink()
    summary = run_job(job)
    assert (summary.done, summary.new_done) == (rows, rows)


def test_progress_adds_up_to_all_rows(job: Job) -> None:
    (Path(job.source) / "001.jpg").write_bytes(b"no image")
    request, refs = plan_job(job)
    worker = ShardWorker(request.job, request.pack, request.storage)
    told: list[tuple[int, int]] = []
    rows = read_shard(request.storage, refs[0])
    outcome = worker.run(refs[0].key, rows, lambda done, failed: told.append((done, failed)))
    assert (sum(done for done, _ in told), sum(failed for _, failed in told)) == (3, 1)
    assert (outcome.done, outcome.failed) == (3, 1)
    assert {"fetch", "decode", "stylize", "encode", "put", "wall"} <= outcome.seconds.keys()
    assert all(seconds > 0 for seconds in outcome.seconds.values())


@pytest.mark.parametrize(("threads", "begun"), [(1, 1), (2, 4)])
def test_where_images_wait_is_seen(
    job: Job, threads: int, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, (ref, _) = plan_job(job)
    worker = ShardWorker(request.job, request.pack, request.storage, threads)
    free = threading.Event()
    encode_item = worker._encode

    def wait_and_encode(item: Item) -> None:
        assert free.wait(60)
        encode_item(item)

    monkeypatch.setattr(worker, "_encode", wait_and_encode)
    none = {"fetch": 0, "decode": 0, "stylize": 0, "encode": 0, "put": 0}
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(
            worker.run, ref.key, read_shard(request.storage, ref), lambda done, failed: None
        )
        wait_until(lambda: worker.queues() == {**none, "encode": begun})
        free.set()
        assert run.result().done == 4
    assert worker.queues() == none
    assert worker.gpu_memory() == {}


def test_a_worker_with_one_thread_decodes_while_a_gpu_computes(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, (ref, _) = plan_job(job)
    worker = ShardWorker(request.job, request.pack, request.storage)
    monkeypatch.setattr(Stylizer, "is_waited_for", True)
    monkeypatch.setattr(Stylizer, "batch_size", lambda *_: 1)
    decode_item, stylize = worker._decode, worker._stylize
    decoded: list[int] = []

    def decode_and_count(item: Item) -> None:
        decode_item(item)
        decoded.append(item.index)

    def wait_and_stylize(batch: list[Item]) -> list[Item]:
        (item,) = batch
        wait_until(lambda: len(decoded) > min(item.index + 1, 3), 20)
        return stylize(batch)

    monkeypatch.setattr(worker, "_decode", decode_and_count)
    monkeypatch.setattr(worker, "_stylize", wait_and_stylize)
    rows = read_shard(request.storage, ref)
    assert worker.run(ref.key, rows, lambda done, failed: None).done == 4


def test_images_in_tars_are_done_with_their_labels(job: Job, tmp_path: Path) -> None:
    members = {}
    for number in range(3):
        members |= {f"{number}.jpg": jpeg(seed=number), f"{number}.cls": b"%d" % number}
    write_tar(tmp_path / "set-0.tar", members)
    write_tar(
        tmp_path / "set-1.tar", {"deep/a.png": encode(picture(), "png", 1), "deep/a.cls": b"9"}
    )
    summary = run_job(changed(job, source=str(tmp_path / "set-{0..1}.tar")))
    assert (summary.done, summary.failed) == (4, 0)
    table = ledger_of(job.out)
    assert table.column("id").to_pylist() == [
        "set-0/0.jpg", "set-0/1.jpg", "set-0/2.jpg", "set-1/deep/a.png",
    ]  # fmt: skip
    assert table.column("cls").to_pylist() == ["0", "1", "2", "9"]
    assert open_image(result(job, "set-1/deep/a.png.jpg")).shape == (64, 64, 3)
    assert run_job(changed(job, source=str(tmp_path / "set-{0..1}.tar"))).new_done == 0


def test_an_empty_image_in_a_tar_is_an_empty_file(job: Job, tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": b"", "b.jpg": jpeg()})
    summary = run_job(changed(job, source=str(tmp_path / "x.tar")))
    assert (summary.done, summary.failed) == (1, 1)
    row = rows_of(job)["x/a.jpg"]
    assert (row["error_message"], row["source_size"]) == ("the file is empty", 0)


def test_the_ledger_keeps_the_name_of_a_member_with_an_at_sign(job: Job, tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"cat@home.jpg": jpeg()})
    run_job(changed(job, source=str(tmp_path / "x.tar")))
    (row,) = rows_of(job).values()
    assert row["source_uri"] == f"tar://cat@home.jpg::{tmp_path}/x.tar"


def test_from_bucket_to_bucket(job: Job, s3: str) -> None:
    storage = Storage()
    storage.write({join(s3, f"in/sub/{number}.jpg"): jpeg(seed=number) for number in range(5)})
    storage.write({join(s3, "in/bad.jpg"): b"no image"})
    job = changed(job, source=join(s3, "in"), out=join(s3, "results/today"), max_failed=0.5)
    summary = run_job(job)
    assert (summary.done, summary.failed, summary.succeeded) == (5, 1, True)
    assert storage.names(job.out) == ["_SUCCESS", "images", "job.json", "metadata"]
    for row in rows_of(job).values():
        if row["status"] == "done":
            data = storage.read_one(join(job.out, row["output_uri"]))
            assert data is not None
            assert hashlib.sha256(data).hexdigest() == row["output_sha256"]
            assert open_image(data).shape == (64, 64, 3)
            assert row["source_uri"].startswith("s3://photos/in/sub/")
    assert run_job(job).new_done == 0
    storage.write({join(s3, "in/sub/0.jpg"): jpeg(seed=99)})
    assert run_job(job).new_done == 1


def test_rows_with_other_settings_of_their_own_are_done_again(job: Job) -> None:
    path = Path(job.source) / "m.parquet"
    uris = [f"00{number}.jpg" for number in range(4)]

    def run(styles: list[str | None], strengths: list[float | None], seeds: list[int]) -> int:
        columns = {"style": pa.array(styles, pa.string()), "strength": pa.array(strengths)}
        table = pa.table({"uri": uris, **columns, "seed": pa.array(seeds, pa.int64())})
        pq.write_table(table, path)
        before = {row["id"]: row["attempts"] for row in rows_of(job).values()} if done else {}
        run_job(changed(job, source=str(path)))
        return sum(row["attempts"] != before.get(name) for name, row in rows_of(job).items())

    done = False
    assert run(["red", "green", None, "red"], [0.5, 0.0, None, 1.0], [0, 1, 2, 3]) == 4
    done = True
    assert run(["red", "green", None, "red"], [0.5, 0.0, None, 1.0], [0, 1, 2, 3]) == 0
    assert run(["green", "green", None, "red"], [0.5, 0.2, None, 1.0], [0, 1, 0, 3]) == 3
    assert {name: row["style"] for name, row in rows_of(job).items()}["000.jpg"] == "green"
    assert run(["green", "green", None, "red"], [0.5, 0.2, None, 1.0], [0, 1, 0, 3]) == 0
