"""Folders, prefixes and globs: the images that lie there, in order, a batch at a time."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from pipeline.manifest.rows import listed_rows
from pipeline.manifest.tables import BATCH_ROWS
from pipeline.storage import Storage, is_local, join, scheme_of

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
     ".jpeg", ".jpg", ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif",
     ".tiff", ".webp")
)  # fmt: skip


class Found(NamedTuple):
    """A file: its URL, its size in bytes, and what changes when it does."""

    uri: str
    size: int | None
    etag: str | None


def is_glob(url: str) -> bool:
    """Whether ``url`` has a wildcard."""
    return any(character in url for character in "*?[")


def list_images(storage: Storage, source: str, leave_out: str) -> Iterator[pa.RecordBatch]:
    """Rows for the images in a folder or prefix and below, or that match a glob, by name.

    Args:
        source: absolute. Below a folder only files with an image's suffix count, and nothing
            hidden; a glob takes what it matches.
        leave_out: the folder of results, which may lie below ``source``.
    """
    root, pattern = source, None
    if is_glob(source):
        fixed = source[: min(source.index(c) for c in "*?[" if c in source)]
        root = posixpath.dirname(fixed)
        pattern = re.compile(glob_translate(source))
    found = (
        file
        for file in _files(storage, root)
        if (pattern.match(file.uri) if pattern else _looks_like_image(file.uri, root))
        and not (leave_out and file.uri.startswith(leave_out + "/"))
    )
    while batch := list(islice(found, BATCH_ROWS)):
        uris, sizes, etags = zip(*batch, strict=True)
        yield listed_rows(uris, root, sizes, etags)


def _looks_like_image(uri: str, root: str) -> bool:
    below = uri[len(root) :]
    return posixpath.splitext(uri)[1].lower() in IMAGE_SUFFIXES and "/." not in below


def _files(storage: Storage, root: str) -> Iterator[Found]:
    fs, path = storage.open(root)
    if is_local(fs):
        return _local_files(path)
    if scheme_of(root) in ("s3", "s3a"):
        return _s3_files(fs, path)
    return _other_files(fs, path, scheme_of(root))


def _local_files(folder: str) -> Iterator[Found]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            yield from _local_files(entry.path)
        elif entry.is_file():
            stat = entry.stat()
            yield Found(entry.path, stat.st_size, str(stat.st_mtime_ns))


def _s3_files(fs: Any, path: str) -> Iterator[Found]:
    """Page by page: fsspec's own listing holds the whole prefix in memory."""
    bucket, _, prefix = path.partition("/")
    request = {"Bucket": bucket, "Prefix": prefix and prefix + "/"}
    while True:
        page = fs.call_s3("list_objects_v2", **request)
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):
                uri = join("s3:/", "", bucket, item["Key"])
                yield Found(uri, item["Size"], item["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _other_files(fs: AbstractFileSystem, path: str, scheme: str) -> Iterator[Found]:
    for name, info in sorted(fs.find(path, detail=True).items()):
        changed = info.get("ETag") or info.get("etag") or info.get("mtime")
        yield Found(f"{scheme}://{name}", info.get("size"), str(changed) if changed else None)
