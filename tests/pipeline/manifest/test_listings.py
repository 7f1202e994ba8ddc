from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest

from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.manifest import listings, open_manifest
from pipeline.storage import Storage, retry
from pipeline.url import join
from tests.conftest import jpeg, write_photos
from tests.pipeline.runs import changed, ledger_of, read_rows, run_job
from tests.pipeline.servers import forward, serving


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def put(place: str, *names: str) -> None:
    Storage().write({join(place, name): name.encode() for name in names})


def ids(source: str | Path, out: str = "") -> list[str]:
    return sorted(read_rows(source, out=out).column("id").to_pylist())


def test_a_folder_gives_its_images_and_those_below(place: str) -> None:
    put(place, "set/b.jpg", "set/a.PNG", "set/deep/er/c.webp", "settled/d.jpg", "e.jpg")
    assert ids(join(place, "set")) == ["a.PNG", "b.jpg", "deep/er/c.webp"]
    assert ids(join(place, "set/")) == ["a.PNG", "b.jpg", "deep/er/c.webp"]


def test_a_whole_bucket_is_a_source(s3: str) -> None:
    put(s3, "a.jpg", "sub/b.jpg")
    assert ids(s3) == ["a.jpg", "sub/b.jpg"]


def test_rows_tell_where_and_how_large(place: str) -> None:
    put(place, "set/sub/a.jpg")
    (row,) = read_rows(join(place, "set")).to_pylist()
    assert row["source_uri"] == join(place, "set/sub/a.jpg")
    assert row["source_size"] == len("set/sub/a.jpg")
    assert row["_source_offset"] is None
    assert (row["style"], row["strength"], row["seed"]) == (None, None, None)


def test_the_etag_changes_with_the_image(place: str) -> None:
    put(place, "a.jpg")
    (before,) = read_rows(place).column("source_etag").to_pylist()
    assert read_rows(place).column("source_etag").to_pylist() == [before]
    Storage().write({join(place, "a.jpg"): b"A.JPG"})
    (after,) = read_rows(place).column("source_etag").to_pylist()
    assert after != before


def test_hidden_files_and_other_files_are_no_images(place: str) -> None:
    put(
        place, ".hidden.jpg", ".cache/a.jpg", "sub/.b.jpg", "notes.txt", "a.jpg.bak", "jpg", "c.jpg"
    )
    assert ids(place) == ["c.jpg"]


def test_a_hidden_folder_may_be_named_itself(place: str) -> None:
    put(place, ".cache/a.jpg", ".cache/.b.jpg")
    assert ids(join(place, ".cache")) == ["a.jpg"]


def test_results_below_the_source_are_not_sources(place: str) -> None:
    put(place, "a.jpg", "out/images/a.jpg", "outside/b.jpg")
    assert ids(place, out=join(place, "out")) == ["a.jpg", "outside/b.jpg"]
    assert ids(place, out=join(place, "out/")) == ["a.jpg", "outside/b.jpg"]


def test_results_may_go_above_the_source(place: str) -> None:
    put(place, "set/a.jpg", "images/set/a.jpg")
    assert ids(join(place, "set"), out=place) == ["a.jpg"]


@pytest.mark.parametrize("source", ["ph", "ph/**/*.jpg"])
def test_results_of_another_job_below_the_source_are_not_sources(
    tmp_path: Path, source: str
) -> None:
    job = ["ph/wave/job.json", "ph/wave/metadata/0.parquet"]
    put(str(tmp_path), "ph/a.jpg", "ph/wave/images/a.jpg", "ph/wave/b.jpg", *job)
    assert ids(tmp_path / source, out=f"{tmp_path}/ph/starry") == ["a.jpg", "wave/b.jpg"]


def test_results_may_be_a_source_themselves(tmp_path: Path) -> None:
    put(str(tmp_path), "wave/images/a.jpg", "wave/job.json", "wave/metadata/0.parquet")
    assert ids(tmp_path / "wave/images") == ["a.jpg"]
    assert ids(tmp_path / "wave") == ["images/a.jpg"]


@pytest.mark.parametrize("missing", ["job.json", "metadata/0.parquet"])
def test_a_folder_of_that_name_may_be_somebody_elses(tmp_path: Path, missing: str) -> None:
    names = {"set/images/a.jpg", "set/job.json", "set/metadata/0.parquet"} - {f"set/{missing}"}
    put(str(tmp_path), *names)
    assert ids(tmp_path) == ["set/images/a.jpg"]


def test_results_are_left_out_by_whatever_way_they_are_named(tmp_path: Path) -> None:
    put(str(tmp_path), "ph/a.jpg", "ph/wave/images/a.jpg")
    (tmp_path / "lnk").symlink_to(tmp_path / "ph")
    assert ids(tmp_path / "ph", out=f"{tmp_path}/lnk/wave") == ["a.jpg"]
    assert ids(tmp_path / "lnk", out=f"{tmp_path}/ph/wave") == ["a.jpg"]
    with pytest.raises(RequestError, match="would put results among the photos"):
        read_rows(tmp_path / "lnk", out=f"{tmp_path}/ph")


def test_results_beside_the_one_photo_are_refused(place: str) -> None:
    put(place, "set/a.jpg")
    with pytest.raises(RequestError, match="would put results among the photos"):
        read_rows(join(place, "set/a.jpg"), out=join(place, "set"))
    assert ids(join(place, "set/a.jpg"), out=join(place, "set/out")) == ["a.jpg"]


@pytest.mark.parametrize("source", ["set", "set/images", "set/images/sub"])
def test_results_among_the_photos_are_refused(place: str, source: str) -> None:
    with pytest.raises(RequestError, match="would put results among the photos"):
        read_rows(join(place, source), out=join(place, "set"))


def test_a_glob_does_not_take_results_for_photos_wherever_they_are(place: str) -> None:
    put(place, "set/a.jpg", "set/images/a.jpg")
    with suppress(RequestError):
        assert ids(join(place, "set/**/*.jpg"), out=join(place, "set")) == ["a.jpg"]


def test_odd_names_are_just_names(place: str) -> None:
    names = ["100%.jpg", "a b.jpg", "a#b.jpg", "a+b.jpg", "a?b.jpg", "a[1].jpg", "süß.jpg"]
    put(place, *names)
    assert ids(place) == sorted(names)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("[ac].jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "x/c.jpg", "x/y/d.jpg"]),
        ("*/*.jpg", ["x/c.jpg"]),
        ("x/*", ["c.jpg", "e.dat"]),
        ("x/**", ["c.jpg", "e.dat", "y/d.jpg"]),
        ("*.gif", []),
    ],
)
def test_a_glob_gives_what_it_matches(place: str, pattern: str, expected: list[str]) -> None:
    put(place, "a.jpg", "b.jpg", "ab.png", "x/c.jpg", "x/y/d.jpg", "x/e.dat")
    assert ids(join(place, pattern)) == expected


@pytest.mark.parametrize("pattern", ["photos/**.jpg", "x**.tar"])
def test_a_glob_that_means_nothing_is_refused(place: str, pattern: str) -> None:
    with pytest.raises(RequestError, match=r"write photos/\*\*/\*\.jpg"):
        read_rows(join(place, pattern))


def test_a_glob_leaves_results_out(place: str) -> None:
    put(place, "a.jpg", "out/images/a.jpg")
    assert ids(join(place, "**/*.jpg"), out=join(place, "out")) == ["a.jpg"]


def test_one_image_is_one_row(place: str) -> None:
    put(place, "set/a.jpg", "set/b.jpg")
    assert ids(join(place, "set/a.jpg")) == ["a.jpg"]


@pytest.mark.parametrize("name", ["photos.json", "x.tsv", "x.tar.gz", "x.zip", "notes.md", "empty"])
def test_one_file_that_is_no_image_is_refused(place: str, name: str) -> None:
    put(place, name)
    with pytest.raises(RequestError, match=f"{name} is neither an image nor a manifest"):
        read_rows(join(place, name))


def test_one_image_is_the_same_row_alone_and_in_its_folder(place: str) -> None:
    put(place, "set/a.jpg")
    assert (
        read_rows(join(place, "set/a.jpg")).to_pylist() == read_rows(join(place, "set")).to_pylist()
    )


@pytest.mark.parametrize("scheme", ["s3a", "memory"])
def test_ids_are_relative_whatever_the_storage_is_called(scheme: str, s3: str) -> None:
    place = s3.replace("s3", scheme, 1)
    put(place, "set/a.jpg", "set/sub/b.jpg", "set/out/images/a.jpg")
    source, out = join(place, "set"), join(place, "set/out")
    assert ids(source, out=out) == ["a.jpg", "sub/b.jpg"]
    assert ids(join(source, "**/*.jpg"), out=out) == ["a.jpg", "sub/b.jpg"]
    (row,) = read_rows(join(source, "sub")).to_pylist()
    assert row["source_uri"] == join(source, "sub/b.jpg")
    assert read_rows(join(source, "sub/b.jpg")).to_pylist() == [row]


def test_a_folder_without_images_has_no_rows(tmp_path: Path, s3: str) -> None:
    assert ids(tmp_path) == []
    assert ids(join(s3, "nothing/here")) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="none does not exist"):
        read_rows(tmp_path / "none")


def test_what_goes_while_a_folder_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(str(tmp_path), "a.jpg", "b.jpg", "sub/c.jpg", "d.jpg")
    scandir = os.scandir

    @contextmanager
    def scan(folder: str) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            found = list(entries)
        for name in ("b.jpg", "sub/c.jpg"):
            (tmp_path / name).unlink()
        (tmp_path / "sub").rmdir()
        yield found

    monkeypatch.setattr(os, "scandir", scan)
    assert ids(tmp_path) == ["a.jpg", "d.jpg"]


def test_what_is_no_image_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(str(tmp_path), "a.jpg", ".b.jpg.part", ".c.jpg", "d.txt", "out/images/e.jpg")
    looked_at = []
    look = listings._local_file
    monkeypatch.setattr(listings, "_local_file", lambda path: looked_at.append(path) or look(path))
    assert ids(tmp_path, out=str(tmp_path / "out")) == ["a.jpg"]
    assert looked_at == [str(tmp_path / "a.jpg")]


def test_a_missing_bucket_is_refused(s3: str) -> None:
    with pytest.raises(RequestError, match="s3://no-such-bucket does not exist"):
        read_rows("s3://no-such-bucket/set")


def test_a_bucket_is_listed_page_by_page(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, *[f"{number}.jpg" for number in range(7)])
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    assert ids(s3) == [f"{number}.jpg" for number in range(7)]


def test_listing_a_bucket_survives_faults(
    s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    put(s3, "set/a.jpg")
    with serving(forward(s3_server)) as faulty:
        manifest = open_manifest(Storage({"endpoint_url": faulty.url}), join(s3, "set"))
        manifest.read()
        faulty.faults = 2
        assert next(manifest.read()).column("id").to_pylist() == ["a.jpg"]


def test_relative_and_home_paths_are_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "set", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (
        "set",
        "./set/../set",
        "~/set",
        f"file://{tmp_path}/set",
        f"FILE://localhost{tmp_path}/s%65t",
    ):
        (row,) = read_rows(source).to_pylist()
        assert (row["id"], row["source_uri"]) == ("000.jpg", str(tmp_path / "set/000.jpg"))


def test_links_to_images_are_images_broken_ones_too(tmp_path: Path) -> None:
    write_photos(tmp_path / "real", 1)
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.jpg").symlink_to(tmp_path / "real/000.jpg")
    (folder / "b.jpg").symlink_to(tmp_path / "real/none.jpg")
    (folder / "more").symlink_to(tmp_path / "real")
    assert ids(folder) == ["a.jpg", "b.jpg", "more/000.jpg"]


def test_a_link_to_a_folder_above_does_not_repeat_its_images(tmp_path: Path) -> None:
    write_photos(tmp_path / "set/sub", 1)
    (tmp_path / "set/sub/up").symlink_to(tmp_path / "set")
    assert ids(tmp_path / "set") == ["sub/000.jpg"]


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path: Path) -> None:
    write_photos(tmp_path / "holidays [2024]", 1)
    assert ids(tmp_path / "holidays [2024]") == ["000.jpg"]


def test_a_name_that_is_not_unicode_is_no_end_of_the_world(tmp_path: Path) -> None:
    photo = write_photos(tmp_path, 1) / "000.jpg"
    shutil.copy(photo, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))
    with suppress(RequestError):
        assert "000.jpg" in ids(tmp_path)


def test_odd_keys_of_a_bucket_have_results_like_others(job: Job, s3: str) -> None:
    for key in ("a.jpg", "/b.jpg", "c//d.jpg"):
        boto3.client("s3").put_object(Bucket="photos", Key=f"in/{key}", Body=jpeg())
    summary = run_job(changed(job, source="s3://photos/in"))
    assert (summary.done, summary.failed) == (3, 0)
    found = {row["id"] for row in ledger_of(job.out).to_pylist()}
    assert found == {"a.jpg", "%/b.jpg", "c/%/d.jpg"}


def test_a_link_that_leads_nowhere_is_a_failed_row(job: Job) -> None:
    (Path(job.source) / "gone.jpg").symlink_to("/nowhere/gone.jpg")
    summary = run_job(job)
    assert (summary.done, summary.failed) == (8, 1)
    (failed,) = [row for row in ledger_of(job.out).to_pylist() if row["status"] == "failed"]
    assert (failed["id"], failed["error_message"]) == ("gone.jpg", "there is no such file")


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_photos_beside_results_are_photos(
    job: Job, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    top = str(tmp_path / "top") if place == "disk" else request.getfixturevalue("s3")
    Storage().write({join(top, name): jpeg() for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg")})
    job = changed(job, source=top, out=join(top, "a"))
    assert run_job(job).done == 3
    assert run_job(job).rows == 3
