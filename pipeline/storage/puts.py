"""Putting bytes onto a file system that is not this machine's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync

from pipeline.storage import retry


def put_all(fs: AbstractFileSystem, files: dict[str, bytes]) -> None:
    """Put all of ``files``, URL to bytes, and take out those that were put.

    Raises what one of the others' puts raised.
    """
    paths = {url: str(fs._strip_protocol(url)) for url in files}
    if isinstance(fs, AsyncFileSystem):
        outcomes = sync(fs.loop, _put_at_once, fs, {paths[url]: files[url] for url in files})
    else:
        outcomes = [fs.pipe_file(path, files[url]) for url, path in paths.items()]
    failed = {}
    for url, outcome in zip(paths, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            failed[url] = outcome
        else:
            del files[url]
    for error in failed.values():
        raise error


async def _put_at_once(fs: AsyncFileSystem, files: Mapping[str, bytes]) -> list[Any]:
    puts = [fs._pipe_file(path, data) for path, data in files.items()]
    return await asyncio.gather(*puts, return_exceptions=True)


def put_if_absent(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Put ``data`` at ``path`` unless something is there; whether it was put."""
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # What the loser of a race is told differs from server to server.
        if fs.exists(path):
            return False
        if not retry.is_unknown(error):
            raise
        fs.pipe_file(path, data)  # without a condition, then
    return True


def put_if_match(fs: AbstractFileSystem, path: str, seen: bytes, data: bytes) -> bool:
    """Put ``data`` at ``path``, on S3, if ``seen`` is what lies there; whether it was put."""
    bucket, key, _ = fs.split_path(path)
    try:
        etag = fs.info(path, refresh=True)["ETag"]
        # Ceph compares it without its quotes, and some servers put without conditions only.
        for condition in ({"IfMatch": etag}, {"IfMatch": etag.strip('"')}, {}):
            if fs.cat_file(path) != seen:
                return False
            try:
                fs.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
                return True
            except OSError as error:
                if not (condition and retry.is_refusal(error)):
                    raise
    except FileNotFoundError:
        pass
    return False
