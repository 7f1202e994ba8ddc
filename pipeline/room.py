"""Room for arrays of any size: what is too large for memory lies in a file."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RowError
from pipeline.text import size

# Arrays of more bytes than this lie in a file: the kernel drops from memory what is not in use.
IN_MEMORY = 1 << 30


def fits(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether an array is small enough for memory."""
    return math.prod(shape) * itemsize <= IN_MEMORY


def room(shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
    """An array with anything in it; its file, if it has one, is gone when the array is.

    Raises:
        RowError: there is no room on the disk. It would otherwise be missed when the array is
            written to, which ends the process.
    """
    if fits(shape, np.dtype(dtype).itemsize):
        return np.empty(shape, dtype)
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(prefix="restyle-") as file:
        try:
            # Asked first: to try would fill the disk to the brim until it failed, and whoever
            # else writes there meanwhile would fail, too.
            disk = os.fstatvfs(file.fileno())
            has_limit = disk.f_blocks > 0
            if has_limit and disk.f_bavail * disk.f_frsize < wanted:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(file.fileno(), 0, wanted)
        except OSError as error:
            where = tempfile.gettempdir()
            raise RowError(
                "resource",
                f"no room for {size(wanted)} in {where} (set TMPDIR to where there is)",
            ) from error
        return np.memmap(file, dtype, "r+", shape=shape)
