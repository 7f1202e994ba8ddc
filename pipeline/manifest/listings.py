"""Folders, prefixes and globs: the images that lie there, in order, a batch at a time."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from pipeline.errors import RequestError
from pipeline.manifest.rows import listed_rows
from pipeline.manifest.tables import BATCH_ROWS
from pipeline.storage import Storage, is_local, told
from pipeline.url import S3_SCHEMES, join, redact_url, scheme_of

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe",
     ".jpeg", ".jpg", ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif",
     ".tiff", ".webp")
)  # fmt: skip


class Found(NamedTuple):
    """A file: its URL, its size in bytes, and what changes when it does."""

    uri: str
    size: int | None
    etag: str | None


def is_glob(url: str) -> bool:
    """Whether ``url`` has a wildcard, and is not a path with such a sign in its name."""
    return any(sign in url for sign in "*?[") and not os.path.exists(url)


def check_glob(url: str) -> None:
    """Raise a RequestError for a ``**`` that is not all there is between two slashes."""
    if is_glob(url) and any("**" in part and part != "**" for part in url.split("/")):
        raise RequestError(
            f"{redact_url(url)}: '**' stands for folders, alone between slashes; "
            "write photos/**/*.jpg"
        )


def root_of(source: str) -> str:
    """The folder or prefix below which all lies that ``source`` may match."""
    if not is_glob(source):
        return source
    return posixpath.dirname(source[: min(source.index(c) for c in "*?[" if c in source)])


def list_images(storage: Storage, source: str, leave_out: str) -> Iterator[pa.RecordBatch]:
    """Rows for the images in a folder or prefix and below, or that match a glob, by name.

    Args:
        source: absolute. Below a folder only files with an image's suffix count, and nothing
            hidden; a glob takes what it matches. On a disk results of other jobs below it do not
            count.
        leave_out: the folder of results, which may lie below ``source``.
    """
    root = root_of(source)
    pattern = re.compile(glob_translate(source)) if is_glob(source) else None

    def wanted(uri: str) -> bool:
        if leave_out and uri.startswith((f"{leave_out}/images/", f"{leave_out}/.restyle/")):
            return False
        return bool(pattern.match(uri)) if pattern else _looks_like_image(uri, root)

    found = files_below(storage, root, wanted)
    while batch := list(islice(found, BATCH_ROWS)):
        uris, sizes, etags = zip(*batch, strict=True)
        yield listed_rows(uris, root, sizes, etags)


def list_image(storage: Storage, source: str) -> Iterator[pa.RecordBatch]:
    """The row of one image, the same that it has in its folder."""
    folder = posixpath.dirname(source)
    fs, path = storage.open(source)
    file = _local_file(path) if is_local(fs) else _other_file(source, fs.info(path))
    yield listed_rows([file.uri], folder, [file.size], [file.etag])


def has_image_suffix(name: str) -> bool:
    """Whether ``name`` ends as those of images do."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _looks_like_image(uri: str, root: str) -> bool:
    return has_image_suffix(uri) and "/." not in uri[len(root) :]


def files_below(
    storage: Storage, root: str, wanted: Callable[[str], bool] = lambda uri: True
) -> Iterator[Found]:
    """The files in a folder or prefix and below whose URLs are ``wanted``.

    Raises:
        OSError: there is no such folder, or it cannot be listed.
    """
    fs, path = storage.open(root)
    if is_local(fs):
        return _local_files(path, wanted)
    is_s3 = scheme_of(root) in S3_SCHEMES
    found = _s3_files(storage, path, root) if is_s3 else _other_files(fs, path, root)
    return (file for file in found if wanted(file.uri))


def _local_files(
    folder: str, wanted: Callable[[str], bool], above: tuple[tuple[int, int], ...] = ()
) -> Iterator[Found]:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return  # a link to a folder that it lies in
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        with suppress(FileNotFoundError):  # it was there a moment ago
            if above and entry.name == "images" and _is_output(folder):
                continue
            if entry.is_dir():
                yield from _local_files(entry.path, wanted, (*above, here))
            elif wanted(entry.path) and entry.is_file():
                yield _local_file(entry.path)
            elif wanted(entry.path) and entry.is_symlink():
                yield Found(entry.path, None, None)  # it leads nowhere, which its row will say


def _is_output(folder: str) -> bool:
    """Whether a job, of whatever style, has put its results there."""
    return os.path.isfile(f"{folder}/job.json") and os.path.isdir(f"{folder}/metadata")


def _local_file(path: str) -> Found:
    stat = os.stat(path)
    return Found(path, stat.st_size, str(stat.st_mtime_ns))


def _s3_files(storage: Storage, path: str, root: str) -> Iterator[Found]:
    """Page by page: fsspec's own listing holds the whole prefix in memory."""
    bucket, _, prefix = path.partition("/")
    prefix = prefix and prefix + "/"
    request = {"Bucket": bucket, "Prefix": prefix}
    while True:
        with told("cannot list", root):
            page = storage.patiently(root, lambda fs, _: fs.call_s3("list_objects_v2", **request))
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):
                uri = join(root, item["Key"].removeprefix(prefix))
                yield _other_file(uri, {**item, "size": item["Size"]})
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _other_files(fs: AbstractFileSystem, path: str, root: str) -> Iterator[Found]:
    for name, info in sorted(fs.find(path, detail=True).items()):
        yield _other_file(root + name.removeprefix(path.rstrip("/")), info)


def _other_file(uri: str, info: Mapping[str, Any]) -> Found:
    changed = info.get("ETag") or info.get("etag") or info.get("mtime")
    return Found(uri, info.get("size"), str(changed).strip('"') if changed else None)
