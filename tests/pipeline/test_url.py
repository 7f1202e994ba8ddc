from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import RowError
from pipeline.url import (
    absolute,
    check_name,
    describe,
    join,
    redact,
    redact_url,
    scheme_of,
    tar_of,
)

REDACTED = [
    ("https://user:pass@host/a.jpg", "https://host/a.jpg"),
    ("https://user:p@ss@host/a.jpg", "https://host/a.jpg"),
    ("https://host/a.jpg?X-Amz-Signature=abc&b=c", "https://host/a.jpg"),
    ("https://host?token=abc", "https://host"),
    ("https://host/my photo.jpg?sig=abc", "https://host/my photo.jpg"),
    ("https://host/my\u00a0photo.jpg?sig=abc", "https://host/my\u00a0photo.jpg"),
    ("https://host/it's.jpg?sig=abc", "https://host/it's.jpg"),
    ("https://host/a.jpg?name=it's&sig=abc", "https://host/a.jpg"),
    ("HTTPS://user:pass@host/a.jpg?sig=abc", "HTTPS://host/a.jpg"),
    ("s3://user:pass@bucket/a.jpg", "s3://bucket/a.jpg"),
    ("sftp://user:pass@host/a.jpg", "sftp://host/a.jpg"),
    ("tar://a.jpg::https://user:pass@host/x.tar", "tar://a.jpg::https://host/x.tar"),
    ("s3://bucket/AKIAIOSFODNN7EXAMPLE.jpg", "s3://bucket/AKIA….jpg"),
    ("s3://bucket/cat@home.jpg", "s3://bucket/cat@home.jpg"),
    ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
    ("https://host:8080/cat@home.jpg", "https://host:8080/cat@home.jpg"),
    ("/photos/what?.jpg", "/photos/what?.jpg"),
    ("tar://cat@home.jpg::/photos/a.tar", "tar://cat@home.jpg::/photos/a.tar"),
    ("abfs://photos@account.dfs.core.windows.net/a.jpg",) * 2,
]


@pytest.mark.parametrize(("url", "expected"), REDACTED)
def test_what_lets_someone_in_is_cut_from_an_address(url: str, expected: str) -> None:
    assert redact_url(url) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *REDACTED,
        ("no 'https://b/k?sig=1', sorry", "no 'https://b/k', sorry"),
        ("403, url=\"https://b/it's.jpg?name='k'&sig=1\")", "403, url=\"https://b/it's.jpg\")"),
        ("(https://b/my photo.jpg?sig=1) and https://c/k?sig=1: 403",
         "(https://b/my photo.jpg) and https://c/k: 403"),
        ("is it https://b/k? Or s3://b/what?.jpg?", "is it https://b/k? Or s3://b/what?.jpg?"),
        ("The key AKIAIOSFODNN7EXAMPLE is wrong", "The key AKIA… is wrong"),
        ("The key ASIAIOSFODNN7EXAMPLE is wrong", "The key ASIA… is wrong"),
    ],
)  # fmt: skip
def test_what_lets_someone_in_is_cut_from_a_text(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_describe_is_one_short_line_without_secrets() -> None:
    text = describe(OSError("no\nhttps://me:secret@host/x?sig=abc " + "y" * 1000))
    assert text.startswith("no https://host/x yyy")
    assert len(text) <= 300
    assert describe(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("name", ["a" * 255, "/".join(["a" * 200] * 5), "ü" * 127])
def test_check_name_accepts_what_storage_takes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["a" * 256, "ü" * 128, "/".join(["a" * 200] * 6)])
def test_check_name_refuses_what_storage_does_not_take(name: str) -> None:
    with pytest.raises(RowError, match=r"too long: \d+ bytes") as caught:
        check_name(name)
    assert caught.value.error_class == "input"


def test_absolute_gives_full_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("photos/") == str(tmp_path / "photos")
    assert absolute("../x") == str(tmp_path.parent / "x")
    assert absolute("~/photos") == "/home/me/photos"
    assert absolute("file:///photos/a") == "/photos/a"
    assert absolute("s3://bucket/photos/") == "s3://bucket/photos"


def test_join_puts_one_slash_between() -> None:
    assert join("s3://bucket/", "a", "b.jpg") == "s3://bucket/a/b.jpg"
    assert join("/out", "a/b.jpg") == "/out/a/b.jpg"


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("/photos/a.jpg", "file"),
        ("a.jpg", "file"),
        ("s3://bucket/a", "s3"),
        ("S3://bucket/a", "s3"),
        ("tar://a.jpg::/photos/x.tar", "file"),
        ("tar://a.jpg::s3://bucket/x.tar", "s3"),
        ("tar://odd::name.jpg::s3://bucket/x.tar", "s3"),
    ],
)
def test_scheme_of_is_that_of_where_the_bytes_lie(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme


def test_tar_of_is_the_tar_or_the_url_itself() -> None:
    assert tar_of("tar://a/b.jpg::s3://bucket/x.tar") == "s3://bucket/x.tar"
    assert tar_of("/odd::name.jpg") == "/odd::name.jpg"
