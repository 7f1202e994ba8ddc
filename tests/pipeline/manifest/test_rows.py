from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import RequestError
from pipeline.manifest.rows import (
    carried_schema,
    check_ids,
    check_schemes,
    folder_of,
    full_uris,
    ids_of,
    inside_ids,
    rows_of,
    stat_local,
)


def rows_from(base: str = "/set", first: int = 1, **columns: list[object]) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pydict(columns)
    carried = carried_schema(batch.schema, (), "m.csv")
    return rows_of(batch, carried, base, "m.csv", first)


@pytest.mark.parametrize(
    ("base", "uri", "expected"),
    [
        ("/set", "a.jpg", "/set/a.jpg"),
        ("/set", "deep/er/a.jpg", "/set/deep/er/a.jpg"),
        ("/set", "./a.jpg", "/set/a.jpg"),
        ("/set", "../other/a.jpg", "/other/a.jpg"),
        ("/set", "deep//a.jpg", "/set/deep/a.jpg"),
        ("/set", "/abs/a.jpg", "/abs/a.jpg"),
        ("/set", "/abs/../a.jpg", "/a.jpg"),
        ("/set", "file:///abs/a.jpg", "/abs/a.jpg"),
        ("/set", "file:///abs/my%20photo%231.jpg", "/abs/my photo#1.jpg"),
        ("/set", "file://localhost/abs/a.jpg", "/abs/a.jpg"),
        ("/set", "FILE:///abs/a.jpg", "/abs/a.jpg"),
        ("/set", "/abs/100%25.jpg", "/abs/100%25.jpg"),
        ("/set", "my%20photo.jpg", "/set/my%20photo.jpg"),
        ("/set", "s3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("/set", "s3://bucket/odd//../a.jpg", "s3://bucket/odd//../a.jpg"),
        ("/", "a.jpg", "/a.jpg"),
        ("s3://bucket/set", "a.jpg", "s3://bucket/set/a.jpg"),
        ("s3://bucket/set", "../a.jpg", "s3://bucket/a.jpg"),
        ("s3://bucket/set", "/abs/a.jpg", "/abs/a.jpg"),
        ("/set", "a:b.jpg", "/set/a:b.jpg"),
    ],
)
def test_relative_uris_are_relative_to_the_manifest(base: str, uri: str, expected: str) -> None:
    assert full_uris(pa.array([uri]), base).to_pylist() == [expected]


@pytest.mark.parametrize(
    ("base", "uri", "expected"),
    [
        ("/set", "/set/a.jpg", "a.jpg"),
        ("/set", "/set/sub/a.jpg", "sub/a.jpg"),
        ("/set", "/settled/a.jpg", "settled/a.jpg"),
        ("/set", "/other/a.jpg", "other/a.jpg"),
        ("/set", "s3://bucket/x/a.jpg", "bucket/x/a.jpg"),
        ("s3://bucket/set", "s3://bucket/set/x/a.jpg", "x/a.jpg"),
        ("s3://bucket/set", "s3://bucket/a.jpg", "bucket/a.jpg"),
        ("/set", "https://host/a.jpg?sig=abc", "host/a.jpg"),
        ("https://host/set", "https://host/set/a.jpg?sig=abc", "a.jpg"),
        ("/set", "HTTPS://host/a.jpg?sig=abc#x", "host/a.jpg"),
        ("/set", "https://host/a.jpg#part", "host/a.jpg"),
        ("/süß", "/süß/ä.jpg", "ä.jpg"),
        ("/", "/a.jpg", "a.jpg"),
    ],
)
def test_an_id_is_the_path_below_the_manifest_or_the_whole_path(
    base: str, uri: str, expected: str
) -> None:
    assert ids_of(pa.array([uri]), base).to_pylist() == [expected]


def test_an_id_holds_no_credentials() -> None:
    ids = ids_of(pa.array(["https://me:secret@host/a.jpg"]), "/set")
    assert "secret" not in ids[0].as_py()


def test_an_id_does_not_depend_on_the_other_rows() -> None:
    alone = rows_from(uri=["sub/a.jpg"]).column("id").to_pylist()
    together = rows_from(uri=["b.jpg", "sub/a.jpg", "/x/y.jpg"]).column("id").to_pylist()
    assert together[1:2] == alone


GOOD_IDS = ["a", "a.jpg", "deep/er/a", "..a", "a..", "...", "a/.b", "-", "ü", "a b", "a:b", "~"]
BAD_IDS = ["../x", "a/../x", "a/..", "..", ".", "./a", "/abs", "a//b", "a/", "..\\x", "a\\..\\x",
           "a\0b"]  # fmt: skip


@pytest.mark.parametrize("row_id", GOOD_IDS)
def test_an_id_that_stays_in_the_output_folder_is_taken(row_id: str) -> None:
    assert rows_from(uri=["a.jpg"], id=[row_id]).column("id").to_pylist() == [row_id]


@pytest.mark.parametrize("row_id", BAD_IDS)
def test_an_id_that_would_leave_the_output_folder_is_refused(row_id: str) -> None:
    with pytest.raises(RequestError, match=r"m\.csv, row 12: the id is not a relative path"):
        check_ids(pa.array(["fine", row_id]), "m.csv", 11)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["uri", "Style"], "column 'Style' is to be 'style'; rename it"),
        (["uri", " seed"], "column ' seed' is to be 'seed'; rename it"),
        (["uri;label"], "put commas between the columns, not 'uri;label'"),
    ],
)
def test_columns_that_are_nearly_right_are_told(names: list[str], message: str) -> None:
    schema = pa.schema([(name, pa.string()) for name in names])
    with pytest.raises(RequestError, match=message):
        carried_schema(schema, (), "m.csv")
    both = pa.schema([(name, pa.string()) for name in ("uri", "id", "ID")])
    assert carried_schema(both, (), "m.csv").names == ["ID"]


def test_ids_that_nobody_has_chosen_stay_in_the_output_folder() -> None:
    found = inside_ids(pa.array([*GOOD_IDS, *BAD_IDS])).to_pylist()
    check_ids(pa.array(found), "bucket", 1)
    assert found[: len(GOOD_IDS)] == GOOD_IDS
    assert len(set(found)) == len(found)
    assert found[-5:] == ["a/%/b", "a/%", "%..\\x", "a\\%..\\x", "a%b"]


@pytest.mark.parametrize("blank", ["", " ", "\t", None])
@pytest.mark.parametrize("column", ["uri", "id"])
def test_a_blank_uri_or_id_is_refused_with_its_row(column: str, blank: str | None) -> None:
    columns: dict[str, list[object]] = {"uri": ["a", "b", "c"], "id": ["a", "b", "c"]}
    columns[column] = ["a", "b", blank]
    with pytest.raises(RequestError, match=f"m.csv, row 13: the {column} is empty"):
        rows_from(first=11, **columns)


@pytest.mark.parametrize("uri", ["b\0.jpg", "file:///b%00.jpg"])
def test_a_uri_that_no_path_can_be_is_refused_with_its_row(uri: str) -> None:
    with pytest.raises(RequestError, match=r"m\.csv, row 12: the uri has a NUL"):
        rows_from(first=11, uri=["a.jpg", uri], id=["a", "b"])


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("inf"), float("nan")])
def test_a_strength_outside_0_to_1_is_refused_with_its_row(strength: float) -> None:
    with pytest.raises(RequestError, match=r"m\.csv, row 2: the strength"):
        rows_from(uri=["a", "b", "c"], strength=[0.5, strength, None])


def test_strengths_from_0_to_1_are_taken() -> None:
    rows = rows_from(uri=["a", "b", "c"], strength=[0.0, 1.0, None])
    assert rows.column("strength").to_pylist() == [0.0, 1.0, None]


@pytest.mark.parametrize(
    ("column", "values"),
    [("strength", ["much"]), ("strength", [[1]]), ("seed", ["x"]), ("seed", [2**63 + 0.0]),
     ("uri", [["a"]]), ("id", [{"a": 1}]), ("style", [[1]])],
)  # fmt: skip
def test_a_column_of_the_wrong_type_is_refused_with_its_name(
    column: str, values: list[object]
) -> None:
    with pytest.raises(RequestError, match=f"m.csv: column '{column}'"):
        rows_from(**{"uri": ["a.jpg"], column: values})


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "memory", "tar", "zip", "HTTP"])
def test_a_scheme_that_was_not_allowed_is_refused_with_its_row(scheme: str) -> None:
    uris = pa.array(["s3://b/a.jpg", f"{scheme}://me:secret@host/b.jpg?sig=abc"])
    with pytest.raises(RequestError, match=r"m\.csv, row 8, column uri") as caught:
        check_schemes(uris, {"s3", "file"}, "m.csv", 7)
    message = str(caught.value)
    assert f"--allow-scheme {scheme.lower()}" in message
    assert "secret" not in message
    assert "abc" not in message


def test_a_local_path_in_a_manifest_from_elsewhere_is_refused() -> None:
    with pytest.raises(RequestError, match=r"row 1, column uri: a local path is not allowed"):
        check_schemes(pa.array(["/etc/passwd"]), {"s3"}, "m.csv", 1)


def test_schemes_that_were_allowed_pass() -> None:
    uris = pa.array(["/a.jpg", "s3://b/a.jpg", "https://host/a.jpg"])
    check_schemes(uris, {"file", "s3", "https"}, "m.csv", 1)


def test_stat_local_tells_size_and_time_of_what_is_here(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    sizes, etags = stat_local(pa.array([str(path), str(tmp_path / "none"), "s3://b/a.jpg"]))
    assert sizes.to_pylist() == [5, None, None]
    assert etags.to_pylist() == [str(path.stat().st_mtime_ns), None, None]


def test_folder_of_is_where_a_manifest_lies() -> None:
    assert folder_of("s3://bucket/set/m.csv") == "s3://bucket/set"
    assert folder_of("/m.csv") == "/"
