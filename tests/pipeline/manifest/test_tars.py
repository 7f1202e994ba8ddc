from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipeline.errors import RequestError, RowError
from pipeline.manifest import open_manifest
from pipeline.manifest.tars import expand, tar_source
from pipeline.storage import Source, Storage
from pipeline.url import join
from tests.pipeline.runs import read_rows, write_tar

SAMPLES = {
    "cats/0001.jpg": b"first picture",
    "cats/0001.cls": b"3",
    "cats/0001.json": b'{"box": [1, 2]}',
    "0002.left.PNG": b"second picture",
    "0002.cls": b"4",
    "notes.md": b"no image",
}


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "set-000.tar", SAMPLES)


def test_every_image_is_a_row_named_after_tar_and_member(tar: Path) -> None:
    rows = read_rows(tar).to_pydict()
    assert rows["id"] == ["set-000/cats/0001.jpg", "set-000/0002.left.PNG"]
    assert rows["source_uri"] == [f"tar://cats/0001.jpg::{tar}", f"tar://0002.left.PNG::{tar}"]
    assert rows["source_size"] == [len(b"first picture"), len(b"second picture")]


def test_a_row_tells_where_its_bytes_lie(tar: Path) -> None:
    rows = read_rows(tar).to_pylist()
    sources = [Source(r["source_uri"], r["_source_offset"], r["source_size"]) for r in rows]
    assert Storage().read(sources) == [b"first picture", b"second picture"]


def test_companions_are_carried_as_text(tar: Path) -> None:
    manifest = open_manifest(Storage(), str(tar))
    assert manifest.carried.names == ["cls", "txt", "json"]
    rows = read_rows(tar).to_pydict()
    assert rows["cls"] == ["3", "4"]
    assert rows["json"] == ['{"box": [1, 2]}', None]


def test_companions_belong_to_all_images_of_a_sample(tmp_path: Path) -> None:
    members = {"a.left.jpg": b"l", "a.right.jpg": b"r", "a.txt": b"a pair", "b.jpg": b"b"}
    rows = read_rows(write_tar(tmp_path / "x.tar", members)).to_pydict()
    assert rows["id"] == ["x/a.left.jpg", "x/a.right.jpg", "x/b.jpg"]
    assert rows["txt"] == ["a pair", "a pair", None]


def test_labels_are_carried_though_the_tar_begins_with_something_else(tmp_path: Path) -> None:
    members = {"README.md": b"hello", "a.jpg": b"a", "a.cls": b"3"}
    rows = read_rows(write_tar(tmp_path / "x.tar", members)).to_pydict()
    assert rows.get("cls") == ["3"]


def test_a_leading_dot_folder_is_not_part_of_an_id(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"./a.jpg": b"a", "./a.cls": b"1"})
    rows = read_rows(path).to_pydict()
    assert (rows["id"], rows["cls"]) == (["x/a.jpg"], ["1"])


def test_what_a_mac_adds_is_neither_an_image_nor_between_an_image_and_its_label(
    tmp_path: Path,
) -> None:
    names = ["./._a.jpg", "./a.jpg", "./._a.cls", "./a.cls", ".cache/b.jpg"]
    path = write_tar(tmp_path / "x.tar", dict.fromkeys(names, b"1"))
    rows = read_rows(path).to_pydict()
    assert (rows["id"], rows["cls"]) == (["x/a.jpg"], ["1"])


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize("name", ["b.jpg", "a.cls"])
def test_a_link_is_refused_by_name(name: str, kind: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a"})
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, "a.jpg"
    with tarfile.open(path, "a") as archive:
        archive.addfile(link)
    with pytest.raises(RequestError, match=rf"x\.tar: '{name}' is a link.* tar --dereference"):
        read_rows(path)


def test_a_link_that_is_no_image_does_not_matter(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.jpg": b"a"})
    link = tarfile.TarInfo("latest")
    link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
    with tarfile.open(path, "a") as archive:
        archive.addfile(link)
    assert read_rows(path).column("id").to_pylist() == ["x/a.jpg"]


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "X.TAR", {"a.jpg": b"a"})
    assert read_rows(path).column("id").to_pylist() == ["X/a.jpg"]


def test_a_brace_range_names_tars_in_order(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        write_tar(tmp_path / f"s-{number:03d}.tar", {"a.jpg": b"%d" % number})
    rows = read_rows(tmp_path / "s-{008..010}.tar")
    assert rows.column("id").to_pylist() == ["s-008/a.jpg", "s-009/a.jpg", "s-010/a.jpg"]


def test_several_ranges_are_all_combinations() -> None:
    found = expand(Storage(), "/x/{0..1}/s-{08..10}.tar")
    assert len(found) == 6
    assert found[:4] == ["/x/0/s-08.tar", "/x/0/s-09.tar", "/x/0/s-10.tar", "/x/1/s-08.tar"]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_glob_names_tars_in_order(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path / "tars") if where == "local" else request.getfixturevalue("s3")
    for name in ("b", "a"):
        data = write_tar(tmp_path / f"{name}.tar", {"x.jpg": name.encode()}).read_bytes()
        Storage().write({join(place, f"set/{name}.tar"): data})
    rows = read_rows(join(place, "set/*.tar"))
    assert rows.column("id").to_pylist() == ["a/x.jpg", "b/x.jpg"]
    sources = [
        Source(row["source_uri"], row["_source_offset"], row["source_size"])
        for row in rows.to_pylist()
    ]
    assert Storage().read(sources) == [b"a", b"b"]


def test_a_glob_without_tars_has_no_rows(tmp_path: Path) -> None:
    assert len(read_rows(tmp_path / "*.tar")) == 0


def test_a_tar_without_images_has_no_rows(tmp_path: Path) -> None:
    assert len(read_rows(write_tar(tmp_path / "x.tar", {"a.txt": b"a"}))) == 0
    assert len(read_rows(write_tar(tmp_path / "y.tar", {}))) == 0


def test_a_missing_tar_is_refused_by_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", {"a.jpg": b"a"})
    with pytest.raises(RequestError, match=r"s-1\.tar does not exist"):
        read_rows(tmp_path / "s-{0..1}.tar")


@pytest.mark.parametrize(
    ("name", "row_id"),
    [("../a.jpg", "x/%../a.jpg"), ("/etc/a.jpg", "x/%/etc/a.jpg"), ("a/../b.jpg", "x/a/%../b.jpg")],
)
def test_the_result_of_a_member_does_not_leave_the_output_folder(
    name: str, row_id: str, tmp_path: Path
) -> None:
    rows = read_rows(write_tar(tmp_path / "x.tar", {"fine.jpg": b"a", name: b"b"}))
    assert rows.column("id").to_pylist() == ["x/fine.jpg", row_id]


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(RequestError, match=r"x\.tar cannot be read as a tar"):
        read_rows(tmp_path / "x.tar")


def three_pictures(tmp_path: Path) -> tuple[Path, bytearray]:
    members = {f"{name}.jpg": name.encode() * 700 for name in "abc"}  # each 512 + 1024 bytes
    path = write_tar(tmp_path / "x.tar", members)
    return path, bytearray(path.read_bytes())


@pytest.mark.parametrize("length", [1536 + 100, 1536 + 512 + 100, 2 * 1536 + 512])
def test_a_tar_that_is_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    path, data = three_pictures(tmp_path)
    path.write_bytes(data[:length])
    with pytest.raises(RequestError, match=r"x\.tar cannot be read as a tar"):
        read_rows(path)


def test_a_tar_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path, data = three_pictures(tmp_path)
    data[1536 : 1536 + 512] = b"\xa5" * 512
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"x\.tar cannot be read as a tar"):
        read_rows(path)


def test_a_tar_without_an_end_marker_is_read(tmp_path: Path) -> None:
    path, data = three_pictures(tmp_path)
    path.write_bytes(data[: 3 * 1536])
    assert len(read_rows(path)) == 3


def test_tar_source_finds_a_member_again(tar: Path) -> None:
    source = tar_source(Storage(), f"tar://0002.left.PNG::{tar}")
    assert Storage().read([source]) == [b"second picture"]


def test_tar_source_says_what_is_not_there(tar: Path) -> None:
    with pytest.raises(RowError, match=r"none\.jpg::.* does not exist"):
        tar_source(Storage(), f"tar://none.jpg::{tar}")
    with pytest.raises(RequestError, match="does not exist"):
        tar_source(Storage(), f"tar://a.jpg::{tar}.gone")
