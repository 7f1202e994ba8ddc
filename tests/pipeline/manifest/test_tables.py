from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RequestError
from pipeline.ledger import RESERVED
from pipeline.manifest import open_manifest, tables
from pipeline.storage import Storage, retry
from pipeline.url import join
from tests.conftest import write_photos
from tests.pipeline.runs import read_rows
from tests.pipeline.servers import files, forward, serving


def write_parquet(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


MANIFESTS = {
    "m.parquet": lambda path: write_parquet(path, {"uri": ["000.jpg", "sub/000.jpg"]}),
    "m.pq": lambda path: write_parquet(path, {"uri": ["000.jpg", "sub/000.jpg"]}),
    "m.csv": lambda path: write_text(path, "uri\n000.jpg\nsub/000.jpg\n"),
    "m.jsonl": lambda path: write_text(path, '{"uri": "000.jpg"}\n{"uri": "sub/000.jpg"}\n'),
    "m.ndjson": lambda path: write_text(path, '{"uri": "000.jpg"}\n{"uri": "sub/000.jpg"}\n'),
    "m.txt": lambda path: write_text(path, "000.jpg\n\n  sub/000.jpg  \n"),
    "M.CSV": lambda path: write_text(path, "uri\r\n000.jpg\r\nsub/000.jpg\r\n"),
    "M.TXT": lambda path: write_text(path, "000.jpg\r\nsub/000.jpg"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_kind_of_table_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    photos = [
        write_photos(tmp_path, 1) / "000.jpg",
        write_photos(tmp_path / "sub", 1, size=32) / "000.jpg",
    ]
    rows = read_rows(MANIFESTS[name](tmp_path / name)).to_pydict()
    assert rows["id"] == ["000.jpg", "sub/000.jpg"]
    assert rows["source_uri"] == [str(photo) for photo in photos]
    assert rows["source_size"] == [photo.stat().st_size for photo in photos]
    assert rows["source_etag"] == [str(photo.stat().st_mtime_ns) for photo in photos]
    assert rows["style"] == rows["strength"] == rows["seed"] == [None, None]


def test_a_byte_order_mark_does_not_count(tmp_path: Path) -> None:
    for name, text in (("m.csv", "uri\na.jpg\n"), ("m.txt", "a.jpg\n")):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8-sig")
        assert read_rows(path).column("id").to_pylist() == ["a.jpg"]


def test_a_table_on_s3_names_images_beside_it(s3: str) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": ["a.jpg", "s3://other/b.jpg"], "label": [1, 2]}), buffer)
    Storage().write({join(s3, "set/m.parquet"): buffer.getvalue().to_pybytes()})
    rows = read_rows(join(s3, "set/m.parquet")).to_pydict()
    assert rows["source_uri"] == ["s3://photos/set/a.jpg", "s3://other/b.jpg"]
    assert rows["id"] == ["a.jpg", "other/b.jpg"]
    assert rows["label"] == [1, 2]


def test_a_table_on_a_web_server_names_images_beside_it() -> None:
    with serving(files({"/set/m.csv": b"uri\na.jpg\n"})) as server:
        rows = read_rows(f"{server.url}/set/m.csv")
        assert rows.column("source_uri").to_pylist() == [f"{server.url}/set/a.jpg"]
        assert rows.column("id").to_pylist() == ["a.jpg"]


def test_reading_a_table_survives_faults(
    s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    Storage().write({join(s3, "m.txt"): b"a.jpg\n"})
    with serving(forward(s3_server)) as faulty:
        storage = Storage({"endpoint_url": faulty.url})
        storage.check(s3)
        manifest = open_manifest(storage, join(s3, "m.txt"))
        faulty.faults = 2
        assert next(manifest.read()).column("id").to_pylist() == ["a.jpg"]


ODD_COLUMNS = {
    "label": pa.array([3, None], pa.int16()),
    "boxes": pa.array(
        [[{"name": "cat", "box": [1.0, 2.0]}], []],
        pa.list_(pa.struct([("name", pa.string()), ("box", pa.list_(pa.float32(), 2))])),
    ),
    "split": pa.array(["train", "test"]).dictionary_encode(),
    "taken": pa.array([datetime(2024, 5, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
    "price": pa.array([Decimal("1.50"), Decimal("2.25")], pa.decimal128(9, 2)),
    "mask": pa.array([b"\x00\xff", None], pa.binary()),
    "tags": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
    "day": pa.array([date(2024, 5, 1), None]),
    "clock": pa.array([time(12, 30), None], pa.time64("us")),
    "naïve name": pa.array([True, False]),
}


def test_columns_of_all_types_are_carried_as_they_are(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a.jpg", "b.jpg"], **ODD_COLUMNS})
    path = write_parquet(tmp_path / "m.parquet", table)
    manifest = open_manifest(Storage(), str(path))
    carried = table.drop_columns("uri")
    assert manifest.carried.names == list(ODD_COLUMNS)
    assert manifest.carried.types == carried.schema.types
    rows = read_rows(path).select(carried.column_names)
    assert rows.schema.types == carried.schema.types
    assert rows.to_pylist() == carried.to_pylist()


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view()])
def test_views_are_carried_as_what_arrow_can_take_rows_of(
    kind: pa.DataType, tmp_path: Path
) -> None:
    labels = pa.array(["cat", None]).cast(kind)
    path = write_parquet(tmp_path / "m.parquet", {"uri": ["a.jpg", "b.jpg"], "label": labels})
    rows = read_rows(path)
    assert rows.take(pa.array([1, 0])).column("label").to_pylist() == [None, labels[0].as_py()]


@pytest.mark.parametrize("name", ["m.csv", "m.parquet", "m.jsonl"])
def test_a_column_with_nothing_in_it_has_no_type_to_hold_later_runs_to(
    name: str, tmp_path: Path
) -> None:
    if name == "m.parquet":
        write_parquet(tmp_path / name, {"uri": ["a.jpg"], "label": pa.nulls(1), "x": [1]})
    else:
        text = (
            '{"uri": "a.jpg", "label": null, "x": 1}' if "json" in name else "uri,label,x\na,,1\n"
        )
        write_text(tmp_path / name, text)
    assert open_manifest(Storage(), str(tmp_path / name)).carried.names == ["x"]
    assert read_rows(tmp_path / name).column("x").to_pylist() == [1]


def test_columns_with_a_meaning_are_read_and_not_carried(tmp_path: Path) -> None:
    columns = {"uri": ["a.jpg"], "id": [7], "style": ["red"], "strength": [1], "seed": [3.0]}
    path = write_parquet(tmp_path / "m.parquet", {**columns, "label": ["cat"]})
    assert open_manifest(Storage(), str(path)).carried.names == ["label"]
    (row,) = read_rows(path).to_pylist()
    assert (row["id"], row["style"], row["strength"], row["seed"]) == ("7", "red", 1.0, 3)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_uris_may_be_any_kind_of_string(kind: pa.DataType, tmp_path: Path) -> None:
    uris = pa.array(["a.jpg", "b.jpg"]).cast(kind)
    path = write_parquet(tmp_path / "m.parquet", {"uri": uris, "id": uris, "style": uris})
    assert read_rows(path).column("style").to_pylist() == ["a.jpg", "b.jpg"]


def test_csv_columns_get_types(tmp_path: Path) -> None:
    text = "uri,label,score,day,name\na.jpg,1,0.5,2024-05-01,cat\nb.jpg,,,,\n"
    rows = read_rows(write_text(tmp_path / "m.csv", text))
    types = [rows.schema.field(name).type for name in ("label", "score", "day", "name")]
    assert types == [pa.int64(), pa.float64(), pa.date32(), pa.string()]
    assert rows.column("label").to_pylist() == [1, None]


@pytest.mark.parametrize("ids", [["007", "7"], ["2024-05-01", "x"], ["2024-05-01", "2024-05-02"]])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_ids_are_text_however_they_look(kind: str, ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    rows = [{"uri": f"{number}.jpg", "id": row_id} for number, row_id in enumerate(ids)]
    if kind == "csv":
        path.write_text("\n".join(["uri,id", *(f"{row['uri']},{row['id']}" for row in rows)]))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert read_rows(path).column("id").to_pylist() == ids


def test_numbers_as_uris_in_a_csv_are_text(tmp_path: Path) -> None:
    path = write_text(tmp_path / "m.csv", "uri\n007\n008\n")
    assert read_rows(path).column("id").to_pylist() == ["007", "008"]


def test_an_empty_style_in_a_csv_is_none(tmp_path: Path) -> None:
    text = "uri,style,strength,seed\na.jpg,red,0.5,1\nb.jpg,,,\n"
    rows = read_rows(write_text(tmp_path / "m.csv", text)).to_pylist()
    assert (rows[0]["style"], rows[0]["strength"], rows[0]["seed"]) == ("red", 0.5, 1)
    assert [rows[1][name] or None for name in ("style", "strength", "seed")] == [None] * 3


def test_jsonl_keeps_nested_columns(tmp_path: Path) -> None:
    box = {"boxes": [{"name": "cat", "at": [1, 2]}], "taken": "2024-05-01"}
    lines = [json.dumps({"uri": "a.jpg", **box}), json.dumps({"uri": "b.jpg"})]
    rows = read_rows(write_text(tmp_path / "m.jsonl", "\n".join(lines))).to_pylist()
    assert rows[0]["boxes"] == [{"name": "cat", "at": [1, 2]}]
    assert rows[1]["boxes"] is None


def test_tables_are_read_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 100)
    path = write_parquet(tmp_path / "m.parquet", {"uri": [f"{n}.jpg" for n in range(250)]})
    batches = list(open_manifest(Storage(), str(path)).read())
    assert [len(batch) for batch in batches] == [100, 100, 50]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "path,label\na.jpg,1\n", "has no column 'uri'; its columns are path, label"),
        ("m.csv", "uri,label,label\na,1,2\n", "two columns named 'label'"),
        ("m.csv", "uri,status\na,1\n", "column 'status' clashes with the ledger"),
        ("m.csv", "", "cannot be read"),
        ("m.csv", "uri,label\na.jpg,1\nb.jpg,2,3\n", "Expected 2 columns, got 3"),
        ("m.jsonl", '{"path": "a.jpg"}\n', "has no column 'uri'; its columns are path"),
        ("m.jsonl", '{"uri": "a.jpg"}\nnot json\n', "cannot be read: JSON"),
        ("m.jsonl", '{"uri": "a.jpg"}\n{"uri": ["b.jpg"]}\n', "cannot be read: JSON"),
        ("m.jsonl", "", "cannot be read"),
        ("m.parquet", "this is no Parquet", "cannot be read: .*Parquet"),
        ("m.parquet", "", "cannot be read"),
        ("m.csv", "uri,strength\na.jpg,much\n", "column 'strength' is string"),
        ("m.csv", "uri,seed\na.jpg,1.5\n", "column 'seed' is double"),
        ("m.csv", "uri,strength\na.jpg,0.5\nb.jpg,1.5\n", "row 2: the strength is not between"),
        ("m.csv", "uri,label\na.jpg,1\n,2\n", "row 2: the uri is empty"),
        ("m.csv", "uri,id\na.jpg,1\nb.jpg,../x\n", "row 2: the id is not a relative path"),
        ("m.txt", "a.jpg\nhttp://host/b.jpg\n", "row 2, column uri: the scheme 'http'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_name_and_the_reason(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    path = write_text(tmp_path / name, content)
    with pytest.raises(RequestError, match=message) as caught:
        read_rows(path, reserved=RESERVED)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    for name, content in (("m.txt", b"a.jpg\n\xff\xfe.jpg\n"), ("m.csv", b"uri\na\n\xff\xfe\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=name):
            read_rows(tmp_path / name)


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl", "m.txt"])
def test_a_missing_table_is_refused(name: str, tmp_path: Path, s3: str) -> None:
    for place in (str(tmp_path), s3):
        with pytest.raises(RequestError, match=rf"{place}/{name} does not exist"):
            read_rows(join(place, name))


@pytest.mark.parametrize("column", ["uri", "id", "label"])
def test_a_parquet_table_with_a_column_twice_is_refused(column: str, tmp_path: Path) -> None:
    names = ["uri", "id", "label", column]
    table = pa.Table.from_arrays([pa.array(["a"])] * 4, names=names)
    with pytest.raises(RequestError, match=f"two columns named '{column}'"):
        read_rows(write_parquet(tmp_path / "m.parquet", table))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 2000)


def test_a_later_row_of_another_type_is_refused_and_named(
    tmp_path: Path, small_blocks: None
) -> None:
    lines = [f"{number:04d}.jpg,{number}" for number in range(1000)]
    lines[700] = "0700.jpg,many"
    path = write_text(tmp_path / "m.csv", "\n".join(["uri,label", *lines]))
    with pytest.raises(RequestError, match=r"m.csv.*row \d+.*'many'"):
        read_rows(path)


def test_a_later_line_of_another_type_is_refused(tmp_path: Path, small_blocks: None) -> None:
    lines = [json.dumps({"uri": f"{number}.jpg", "label": number}) for number in range(1000)]
    lines[700] = '{"uri": "700.jpg", "label": "many"}'
    with pytest.raises(RequestError, match=r"m.jsonl.*row \d+.*label"):
        read_rows(write_text(tmp_path / "m.jsonl", "\n".join(lines)))


def test_captions_of_several_lines_are_carried(tmp_path: Path, small_blocks: None) -> None:
    captions = [f"first line of {number}\nand, a second" for number in range(300)]
    lines = [f'{number}.jpg,"{caption}"' for number, caption in enumerate(captions)]
    path = write_text(tmp_path / "m.csv", "\n".join(["uri,caption", *lines]))
    assert read_rows(path).column("caption").to_pylist() == captions


def test_a_field_that_comes_late_is_refused(tmp_path: Path, small_blocks: None) -> None:
    lines = [json.dumps({"uri": f"{number}.jpg", "label": 1}) for number in range(300)]
    lines[250] = json.dumps({"uri": "250.jpg", "label": 1, "box": [1]})
    with pytest.raises(RequestError, match=r"m\.jsonl, after row \d+"):
        read_rows(write_text(tmp_path / "m.jsonl", "\n".join(lines)))


def test_a_damaged_parquet_page_is_refused(tmp_path: Path) -> None:
    uris = [f"{number * 7919:09x}.jpg" for number in range(20_000)]
    path = write_parquet(tmp_path / "m.parquet", {"uri": uris}, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"m.parquet"):
        read_rows(path)
