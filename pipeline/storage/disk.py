"""Bytes from and to this machine's disks, with as few system calls as it takes.

For each of them a thread lets go of Python's lock and waits to have it again, while others decode
and stylize.
"""

from __future__ import annotations

import ctypes
import io
import os
import stat
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO, Literal

LIBC = ctypes.CDLL(None, use_errno=True)


def read_ranges(
    paths: Sequence[str], starts: Sequence[int | None], ends: Sequence[int | None]
) -> list[bytes | Exception]:
    """As ``AbstractFileSystem.cat_ranges`` of fsspec: of each file the bytes from ``start``, or its
    own, up to ``end``, or its own; or what was wrong with it.
    """
    results: list[bytes | Exception] = []
    for path, start, end in zip(paths, starts, ends, strict=True):
        try:
            results.append(_read(path, start or 0, end))
        except Exception as error:
            results.append(error)
    return results


def _read(path: str, start: int, end: int | None) -> bytes:
    with open(path, "rb", buffering=0, opener=_open_file) as file:
        if end is None and not start:
            return file.readall()
        with io.BufferedReader(file) as buffered:
            buffered.seek(start)
            return buffered.read(-1 if end is None else end - start)


def _open_file(path: str, flags: int) -> int:
    """As ``open`` does it, but what never ends, or never begins, is no file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(f"{path} is a folder, a device or a pipe, and no file")
    return descriptor


def put(path: str, data: bytes, scratch: str = "", last: bool = False) -> None:
    """Put ``data`` at ``path``: whole under its name or not at all.

    Args:
        scratch: a folder on the same file system for what is not whole yet, rather than beside it.
        last: only when it has reached the disk, and all else that was put on it: a power cut, too,
            then leaves that whole, or this not there.
    """
    folder = os.path.dirname(path)
    temporary = os.path.join(scratch or folder, f"{uuid.uuid4().hex}.partial")
    try:
        _in_folder(scratch or folder, lambda: _write(temporary, "wb", data))
        if last:
            settle(temporary)
        _in_folder(folder, lambda: os.replace(temporary, path))
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def spool(folder: str) -> BinaryIO:
    """An empty file in ``folder``, for what grows and gets its name when it is whole."""
    path = os.path.join(folder, f"{uuid.uuid4().hex}.partial")
    os.makedirs(folder, exist_ok=True)
    return open(path, "x+b")


def move(path: str, to: str) -> None:
    """Give the file at ``path``, on the same file system, the name ``to``."""
    _in_folder(os.path.dirname(to), lambda: os.replace(path, to))


def _in_folder(folder: str, call: Callable[[], None]) -> None:
    """``call``, which wants ``folder`` to be there; it is asked for only if not."""
    try:
        call()
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        call()


def settle(path: str) -> None:
    """Have all that was written to the file system of ``path`` reach its disk: syncfs(2)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if LIBC.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def _write(path: str, mode: Literal["wb", "xb"], data: bytes) -> None:
    with open(path, mode, buffering=0) as file:
        rest = memoryview(data)
        while rest:  # a disk that is nearly full takes less than all
            rest = rest[file.write(rest) :]


def create(path: str, data: bytes) -> bool:
    """Put ``data`` at ``path`` unless something is there; whether it was put.

    Others may see it half written.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        _write(path, "xb", data)  # not os.link, which memory cards and their like lack
    except FileExistsError:
        return False
    except OSError:  # no room: what was begun would be taken for another's
        with suppress(OSError):
            os.unlink(path)
        raise
    return True
