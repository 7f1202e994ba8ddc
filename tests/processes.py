"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

# The command, whether it is installed or not.
RESTYLE = [sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())"]

# In the command line of a worker, and of nobody else.
WORKER = "pipeline.worker import"


def family(pid: int) -> list[int]:
    """A process and all that it has started, as far as they live."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def workers_of(pid: int) -> set[int]:
    """The worker processes below a process, as far as they run."""
    return {one for one in family(pid) if WORKER in command_of(one) and is_running(one)}


def command_of(pid: int) -> str:
    """The command line of a process, or nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(processes: Iterable[int]) -> None:
    """SIGKILL, to all of them that there still are."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory(what: str = "VmRSS", pid: int | str = "self") -> int:
    """Memory of a process now, KiB, or with ``VmHWM`` the most that it has had.

    Not that of getrusage(): its peak begins with that of the process that started this one.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0])


def wait_until(true: Callable[[], object], seconds: float = 180) -> None:
    """Wait for something that others do; AssertionError if it takes longer."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
