"""Arrays that lie in files."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import room
from pipeline.errors import RowError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files are; whatever needs more than a thousand bytes has one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(room, "IN_MEMORY", 1000)
    return tmp_path


def test_what_is_small_is_in_memory(folder: Path) -> None:
    assert not isinstance(room.room((10, 10, 10)), np.memmap)


def test_what_is_large_lies_in_a_file_that_nobody_sees(folder: Path) -> None:
    array = room.room((1001, 3), np.int16)
    assert isinstance(array, np.memmap)
    array[:] = np.arange(1001)[:, None]
    assert array.sum() == 3 * 500 * 1001
    assert array.dtype == np.int16
    assert not any(folder.iterdir())


def test_files_are_gone_with_their_arrays(folder: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(folder))

    array = room.room((2000,))
    assert mapped() == 1
    del array
    assert mapped() == 0


def test_no_room_is_said_at_once_and_the_disk_is_not_filled_to_find_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *asked: tried.append(asked))
    free = os.statvfs(folder)
    with pytest.raises(RowError, match=rf"no room for .* in {folder} \(set TMPDIR"):
        room.room((free.f_bavail * free.f_frsize + (1 << 30),))
    assert not any(folder.iterdir())
    assert not tried


def test_room_that_others_took_meanwhile_is_missed_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RowError, match="no room for"):
        room.room((2000,))
    assert not any(folder.iterdir())
