from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import plan as plan_module
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.ledger import LEDGER_SCHEMA, Ledger, now
from pipeline.manifest import open_manifest, tables
from pipeline.plan import Plan, Shard, output_names, plan_shards
from pipeline.storage import Storage

ROOT = Path(__file__).parents[2]
STYLES = ["red", "green", "blue"]
DIGEST = "digest of these settings"


def manifest(tmp_path: Path, ids: Sequence[str], **columns: Sequence[Any]) -> Path:
    """A manifest of images that nobody looks for."""
    path = tmp_path / "m.parquet"
    uris = [f"s3://photos/{row_id}" for row_id in ids]
    pq.write_table(pa.table({"uri": uris, "id": list(ids), **columns}), path)
    return path


def plan(source: Path, digest: str = DIGEST, **settings: Any) -> tuple[Plan, list[Shard]]:
    out = str(source.parent / "out")
    size, workers = settings.pop("shard_size", 4), settings.pop("workers", 2)
    job = Job(source=str(source), out=out, **{"style": "red", **settings})
    storage, figures = Storage(), Plan()
    rows = open_manifest(storage, job.source)
    shards = plan_shards(rows, Ledger(storage, out), job, digest, STYLES, figures, size, workers)
    return figures, list(shards)


def commit(source: Path, shard: Shard, **changes: Any) -> None:
    """Write down that a shard is done, or else what ``changes`` say of each of its rows."""
    planned = ("id", "variant", "source_uri", "source_size", "source_etag")
    records = [
        {
            **{name: row[name] for name in planned},
            "status": "done", "attempts": 1, "style": "red", "strength": 1.0, "seed": 0,
            "model_digest": "m", "job_digest": DIGEST, "shard": shard.key, "finished_at": now(),
            **changes,
        }
        for row in shard.rows.to_pylist()
    ]  # fmt: skip
    table = pa.Table.from_pylist(records, schema=LEDGER_SCHEMA)
    Ledger(Storage(), str(source.parent / "out")).commit(shard.key, table)


def ids_of(shards: Sequence[Shard]) -> list[list[str]]:
    return [shard.rows.column("id").to_pylist() for shard in shards]


def names(count: int, first: int = 0) -> list[str]:
    return [f"{number}.jpg" for number in range(first, first + count)]


def test_rows_are_cut_into_shards_in_order(tmp_path: Path) -> None:
    figures, shards = plan(manifest(tmp_path, names(10)))
    assert ids_of(shards) == [names(4), names(4, 4), names(2, 8)]
    assert (figures.rows, figures.left, figures.shards, figures.largest) == (10, 10, 3, 4)
    assert (figures.done, figures.failed) == (0, 0)


@pytest.mark.parametrize("rows", [1, 65, 126, 700, 1600, 5000])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_all_workers_end_at_about_the_same_time(rows: int, workers: int, tmp_path: Path) -> None:
    _, shards = plan(manifest(tmp_path, names(rows)), shard_size=512, workers=workers)
    assert [name for shard in ids_of(shards) for name in shard] == names(rows)
    sizes = [len(shard.rows) for shard in shards]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= 512
    busy = [0] * workers
    for size in sizes:  # each worker takes the next shard when it has done one
        busy[busy.index(min(busy))] += size
    assert max(busy) <= rows / workers + 128


def test_only_the_last_shards_are_smaller(tmp_path: Path) -> None:
    _, shards = plan(manifest(tmp_path, names(5000)), shard_size=512, workers=2)
    smaller = [384, 320, 192, 192, 128, 128, 72]
    assert [len(shard.rows) for shard in shards] == [512] * 7 + smaller


def test_another_cut_loses_no_row_and_doubles_none(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(3000))
    _, shards = plan(source, shard_size=512, workers=2)
    ended = [shards[1], shards[4], shards[-1]]
    for shard in ended:
        commit(source, shard)
    committed = {name for shard in ids_of(ended) for name in shard}
    for workers in (1, 2, 5):
        figures, left = plan(source, shard_size=512, workers=workers)
        assert [name for shard in ids_of(left) for name in shard] == [
            name for name in names(3000) if name not in committed
        ]
        assert (figures.done, figures.left) == (len(committed), 3000 - len(committed))


def test_the_same_rows_make_the_same_plan(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(10))
    (_, first), (_, second) = plan(source), plan(source)
    assert [shard.key for shard in first] == [shard.key for shard in second]
    assert all(a.rows.equals(b.rows) for a, b in zip(first, second, strict=True))


def test_a_plan_is_the_same_in_every_process(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(6))
    code = (
        "import sys; from pathlib import Path; from tests.pipeline.test_plan import plan;"
        "print(*[shard.key for shard in plan(Path(sys.argv[1]))[1]])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(source)],
        capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert said.stdout.split() == [shard.key for shard in plan(source)[1]]


def test_a_shard_has_its_key_from_its_own_rows_alone(tmp_path: Path) -> None:
    _, few = plan(manifest(tmp_path, names(8)))
    _, more = plan(manifest(tmp_path, [*names(8), "new.jpg"]))
    _, others = plan(manifest(tmp_path, [*names(4, 100), *names(4, 4), *names(4)]))
    assert [shard.key for shard in more[:2]] == [shard.key for shard in few]
    assert [others[2].key, others[1].key] == [shard.key for shard in few]
    assert len({shard.key for shard in [*more, *others]}) == 4


def test_keys_tell_ids_and_variants_apart(tmp_path: Path) -> None:
    _, (one,) = plan(manifest(tmp_path, ["ab", "c"]))
    _, (other,) = plan(manifest(tmp_path, ["a", "bc"]))
    _, (turned,) = plan(manifest(tmp_path, ["c", "ab"]))
    assert len({one.key, other.key, turned.key}) == 3


def test_rows_that_are_done_are_not_planned(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(10))
    _, shards = plan(source)
    commit(source, shards[1])
    figures, left = plan(source)
    assert ids_of(left) == [names(4), [*names(2, 8)]]
    assert (figures.rows, figures.done, figures.left) == (10, 4, 6)
    for shard in shards:
        commit(source, shard)
    figures, left = plan(source)
    assert (figures.rows, figures.done, figures.left, left) == (10, 10, 0, [])


def test_new_rows_make_new_shards_wherever_they_stand(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(4))
    _, (shard,) = plan(source)
    commit(source, shard)
    figures, (new,) = plan(manifest(tmp_path, ["x.jpg", *names(4), "y.jpg"]))
    assert ids_of([new]) == [["x.jpg", "y.jpg"]]
    assert new.key != shard.key
    assert (figures.done, figures.left) == (4, 2)


def test_done_rows_stay_done_in_another_order_and_another_cut(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(8))
    for shard in plan(source)[1]:
        commit(source, shard)
    figures, shards = plan(manifest(tmp_path, names(8)[::-1]), shard_size=3)
    assert (figures.done, shards) == (8, [])


@pytest.mark.parametrize("error_class", ["storage", "resource"])
def test_rows_that_failed_for_what_may_pass_are_tried_again(
    error_class: str, tmp_path: Path
) -> None:
    source = manifest(tmp_path, names(8))
    first, second = plan(source)[1]
    commit(source, first)
    commit(source, second, status="failed", error_class=error_class)
    figures, (again,) = plan(source)
    assert again.key == second.key
    assert ids_of([again]) == [names(4, 4)]
    assert (figures.done, figures.failed, figures.left) == (4, 0, 4)


def test_bad_images_are_tried_again_only_on_request(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(4))
    _, (shard,) = plan(source)
    commit(source, shard, status="failed", error_class="input")
    figures, shards = plan(source)
    assert (figures.failed, figures.left, shards) == (4, 0, [])
    figures, (again,) = plan(source, retry_failed=True)
    assert (again.key, figures.failed, figures.left) == (shard.key, 0, 4)


def test_rows_done_with_other_settings_are_done_again(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(8))
    _, shards = plan(source)
    commit(source, shards[0])
    commit(source, shards[1], job_digest="of other settings")
    _, (again,) = plan(source)
    assert again.key == shards[1].key


def photos(tmp_path: Path, count: int) -> Path:
    for name in names(count):
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    (tmp_path / "m.txt").write_text("\n".join(names(count)))
    return tmp_path / "m.txt"


def test_rows_done_again_are_in_their_shards_in_whatever_order_they_come(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(12))
    shards = plan(source)[1]
    for shard in shards:
        commit(source, shard)
    mixed = [5, 0, 9, 4, 1, 8, 11, 3, 2, 7, 10, 6]
    manifest(tmp_path, [*[f"{number}.jpg" for number in mixed], "new.jpg"])
    again = {shard.key: ids_of([shard])[0] for shard in plan(source, "other settings")[1]}
    assert [again.pop(shard.key) for shard in shards] == [
        [f"{number}.jpg" for number in mixed if number // 4 == place] for place in range(3)
    ]
    assert list(again.values()) == [["new.jpg"]]


@pytest.mark.parametrize("together", [1, 7, 1000])
@pytest.mark.parametrize("gone", [0, 9])
def test_many_rows_in_any_order_come_to_their_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int, gone: int
) -> None:
    source = manifest(tmp_path, names(80))
    shards = plan(source)[1]
    for shard in shards:
        commit(source, shard)
    monkeypatch.setattr(tables, "BATCH_ROWS", 6)
    monkeypatch.setattr(plan_module, "TOGETHER", together)
    mixed = names(80)[:3] + random.Random(0).sample(names(80)[3:], 77 - gone)
    figures, again = plan(manifest(tmp_path, mixed), "other settings")
    assert figures.left == len(mixed)
    found = {shard.key: ids_of([shard])[0] for shard in again}
    assert len(found) == len(again)
    expected = {shard.key: set(ids_of([shard])[0]) & set(mixed) for shard in shards}
    assert found == {key: sorted(ids, key=mixed.index) for key, ids in expected.items() if ids}


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_source_that_changed_is_done_again_in_its_shard(change: str, tmp_path: Path) -> None:
    source = photos(tmp_path, 8)
    _, shards = plan(source)
    for shard in shards:
        commit(source, shard)
    assert plan(source)[1] == []
    if change == "size":
        (tmp_path / "5.jpg").write_bytes(b"longer than it was")
        os.utime(tmp_path / "5.jpg", ns=(10**18, 10**18))
    else:
        os.utime(tmp_path / "5.jpg", ns=(10**18, 10**18 + 1))
    figures, (again,) = plan(source)
    assert (again.key, ids_of([again])) == (shards[1].key, [["5.jpg"]])
    assert (figures.done, figures.left) == (7, 1)


def test_a_bad_image_that_was_replaced_is_tried_again(tmp_path: Path) -> None:
    source = photos(tmp_path, 1)
    _, (shard,) = plan(source)
    commit(source, shard, status="failed", error_class="input")
    (tmp_path / "0.jpg").write_bytes(b"a better one")
    assert ids_of(plan(source)[1]) == [["0.jpg"]]


def test_a_row_that_names_another_source_is_done_again(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(4))
    _, (shard,) = plan(source)
    commit(source, shard)
    uris = [f"s3://photos/{name}" for name in names(4)]
    pq.write_table(pa.table({"uri": [*uris[:3], "s3://other/3.jpg"], "id": names(4)}), source)
    figures, (again,) = plan(source)
    assert (again.key, ids_of([again])) == (shard.key, [["3.jpg"]])
    assert figures.done == 3


def test_sources_whose_size_is_not_known_are_not_taken_for_changed(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(4))
    figures, (shard,) = plan(source)
    assert (figures.unknown_sizes, figures.left_bytes) == (4, 0)
    commit(source, shard, source_size=1234)
    assert plan(source)[1] == []


def test_a_plan_tells_the_bytes_that_are_left(tmp_path: Path) -> None:
    figures, _ = plan(photos(tmp_path, 3))
    assert (figures.left_bytes, figures.unknown_sizes) == (3 * len("0.jpg"), 0)


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    source = manifest(tmp_path, [*names(3), "1.jpg"])
    with pytest.raises(RequestError, match=r"rows 2 and 4 would both become '1\.jpg'"):
        plan(source)


@pytest.mark.parametrize(
    ("twins", "settings", "name"),
    [
        (["a.jpg", "a"], {}, r"a\.jpg"),
        (["a", "a.png"], {"format": "png"}, r"a\.png"),
        (["a.v1.jpg", "a.jpg"], {"variants": 2, "style": "red,green"}, r"a\.v1\.jpg"),
    ],
)
def test_ids_whose_results_would_be_one_file_are_refused(
    twins: list[str], settings: dict[str, Any], name: str, tmp_path: Path
) -> None:
    source = manifest(tmp_path, ["z", twins[0], "y", twins[1]])
    with pytest.raises(RequestError, match=f"rows 2 and 4 would both become '{name}'"):
        plan(source, **settings)


def test_ids_that_differ_in_case_or_ending_are_different(tmp_path: Path) -> None:
    figures, _ = plan(manifest(tmp_path, ["a.jpg", "A.jpg", "a.jpeg", "a.JPG", "a.png"]))
    assert figures.rows == 5


def test_duplicates_are_found_in_what_is_done_too(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(4))
    commit(source, plan(source)[1][0])
    with pytest.raises(RequestError, match="rows 1 and 5"):
        plan(manifest(tmp_path, [*names(4), "0.jpg"]))


def test_an_unknown_style_is_refused_with_its_row(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(3), style=["red", None, "gren"])
    with pytest.raises(RequestError, match=r"m\.parquet, row 3, column style: .*'green'"):
        plan(source)


def test_rows_may_have_styles_of_their_own(tmp_path: Path) -> None:
    styles = ["red", None, "red:1+blue:3", "red,green"]
    _, (shard,) = plan(manifest(tmp_path, names(4), style=styles))
    assert shard.rows.column("style").to_pylist() == styles


def test_a_row_of_a_csv_without_a_style_has_that_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri,style\na.jpg,green\nb.jpg,\n")
    figures, _ = plan(tmp_path / "m.csv")
    assert figures.rows == 2


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    figures, shards = plan(manifest(tmp_path, names(10)), limit=6)
    assert ids_of(shards) == [names(4), names(2, 4)]
    assert figures.rows == 6


def test_rows_beyond_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    source = manifest(tmp_path, [*names(3), "0.jpg"], style=[None, None, None, "unknown"])
    assert plan(source, limit=3)[0].rows == 3


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("m.csv", "uri\n0.jpg", "1.jpg"), ("m.jsonl", '{"uri": "0.jpg"}', '{"uri": "1.jpg"}')],
)
def test_rows_after_many_blank_lines_count(
    name: str, first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1000)
    source = tmp_path / name
    source.write_text(first + "\n" * 3000 + second + "\n")
    assert 0 in map(len, open_manifest(Storage(), str(source)).read())
    assert ids_of(plan(source)[1]) == [names(2)]


def test_a_higher_limit_does_what_is_more(tmp_path: Path) -> None:
    source = manifest(tmp_path, names(8))
    commit(source, plan(source, limit=4)[1][0])
    assert ids_of(plan(source, limit=8)[1]) == [names(4, 4)]


def test_variants_are_rows_of_their_own_beside_each_other(tmp_path: Path) -> None:
    figures, shards = plan(manifest(tmp_path, names(3)), variants=2, style="red,green")
    rows = [(row["id"], row["variant"]) for shard in shards for row in shard.rows.to_pylist()]
    assert rows == [(name, variant) for name in names(3) for variant in (0, 1)]
    assert (figures.rows, figures.left, figures.shards) == (6, 6, 2)


@pytest.mark.parametrize(
    ("style", "column", "where"),
    [
        ("red,green", ["red,green", None, "blue", ""], "m.parquet, row 3, column style: "),
        ("red", ["red,green", "", "green,blue", None], "^"),
        ("red", [None] * 4, "^"),
    ],
)
def test_variants_that_would_be_alike_are_refused(
    tmp_path: Path, style: str, column: list[str | None], where: str
) -> None:
    source = manifest(tmp_path, names(4), style=column)
    message = f"{where}--variants 2 of 1 style: some results of an image would be alike"
    with pytest.raises(RequestError, match=message):
        plan(source, variants=2, style=style)


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no images"):
        plan(manifest(tmp_path, []))


def test_carried_columns_stay_with_their_rows(tmp_path: Path) -> None:
    labels = pa.array([[1], [2, 3], None, []], pa.list_(pa.int8()))
    _, (shard,) = plan(manifest(tmp_path, names(4), label=labels))
    assert shard.rows.column("label").combine_chunks().equals(labels)


@pytest.mark.parametrize(
    ("image_format", "row_id", "variant", "expected"),
    [
        ("jpg", "a.jpg", 0, "a.jpg"),
        ("jpg", "a.JPG", 0, "a.JPG"),
        ("jpg", "a.jpeg", 0, "a.jpeg"),
        ("jpg", "a", 0, "a.jpg"),
        ("jpg", "a.png", 0, "a.png.jpg"),
        ("jpg", "deep/er.jpg/a", 0, "deep/er.jpg/a.jpg"),
        ("jpg", "a.jpg.jpg", 0, "a.jpg.jpg"),
        ("jpg", "a\nb", 0, "a\nb.jpg"),
        ("jpg", "a.jpg", 3, "a.v3.jpg"),
        ("jpg", "a.JPEG", 1, "a.v1.JPEG"),
        ("jpg", "a.png", 1, "a.png.v1.jpg"),
        ("png", "a.png", 0, "a.png"),
        ("png", "a.jpg", 0, "a.jpg.png"),
        ("webp", "a.WebP", 2, "a.v2.WebP"),
        ("jpg", ".jpg", 0, ".jpg"),
        ("jpg", "ajpg", 0, "ajpg.jpg"),
    ],
)
def test_a_result_is_named_after_its_id_and_format(
    image_format: str, row_id: str, variant: int, expected: str
) -> None:
    found = output_names(pa.array([row_id]), pa.array([variant], pa.int32()), image_format)
    assert found.to_pylist() == [expected]


MEASURE = """
import sys
from tests.pipeline.test_plan import plan_figures
from tests.processes import memory

before = memory("VmHWM")
figures = plan_figures(sys.argv[1])
print(figures.rows, figures.shards, round((memory("VmHWM") - before) / 1024))
"""


def plan_figures(source: str) -> Plan:
    """Plan without holding on to the shards."""
    job = Job(source=source, out="/nowhere", style="red")
    storage, figures = Storage(), Plan()
    rows = open_manifest(storage, job.source)
    for _ in plan_shards(rows, Ledger(storage, job.out), job, DIGEST, STYLES, figures, 512, 2):
        pass
    return figures


def test_a_million_rows_are_planned_in_little_memory(tmp_path: Path) -> None:
    count = 1_000_000
    uris = [f"s3://photos/some/where/{number:08d}.jpg" for number in range(count)]
    source = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": uris, "label": range(count)}), source)
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source)],
        capture_output=True, text=True, check=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    rows, shards, megabytes = map(int, said.stdout.split())
    assert (rows, shards) == (count, 1959)
    assert megabytes < 300
