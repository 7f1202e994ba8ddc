"""Who works on an output folder: one run at a time, on however many machines they are started.

A claim is a small file that its run writes anew every few seconds. Another run finds it and stops,
unless the one that wrote it has died: at once where that can be seen, elsewhere after the claim
has not been renewed for a while.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import RequestError, SystemFault
from pipeline.storage import Storage
from pipeline.url import join, redact_url

NAME = ".restyle-claim"

# Seconds.
RENEWED_EVERY = 5.0
STALE_AFTER = 25.0  # several renewals, as one may take a while
LOOK_EVERY = 0.5
SILENT = 300.0  # by two clocks, which may differ by minutes


class TakenOver(SystemFault):
    """Another run has taken the folder for abandoned."""


class Claim:
    """The claim of this run on a folder.

    Args:
        out: the folder, in full.

    Attributes:
        lost: who has taken it over, once that was seen while renewing it.
        token: tells it from all others.
    """

    def __init__(self, storage: Storage, out: str) -> None:
        self._storage, self._out = storage, out
        self.lost = ""
        self.token = uuid.uuid4().hex
        self._url = join(out, NAME)
        self._who = {
            "host": socket.gethostname(),
            "here": _here(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self.token,
        }
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    def take(self) -> None:
        """Take the folder.

        Raises:
            RequestError: another run has it.
        """
        taken_over = False
        while not self._storage.create(self._url, self._content()):
            theirs = self._read()
            if theirs is None:
                continue  # it has just been given back
            if self._is_ours(theirs):
                break  # it was put, but the answer was lost
            if not _has_died(theirs) and self._is_renewed(theirs):
                self._refuse(self._read() or theirs)  # on a disk it may have been half written
            if self._read() == theirs:
                self._storage.delete(self._url)
                taken_over = True
        if taken_over:
            # Another may have found the dead one's claim too, and have deleted ours for it.
            time.sleep(2 * LOOK_EVERY)
            theirs = self._read()
            if theirs is not None and not self._is_ours(theirs):
                self._refuse(theirs)
        self._renewing = threading.Thread(target=self._renew, name="claim", daemon=True)
        self._renewing.start()

    def _refuse(self, theirs: dict[str, Any]) -> NoReturn:
        raise RequestError(
            f"another run works on {redact_url(self._out)}: process {theirs.get('pid')} on "
            f"{theirs.get('host')}, since {theirs.get('since')}; wait for it, or stop it"
        )

    def release(self) -> None:
        """Give the folder back, if it is ours; where nobody answers it will be found stale."""
        if self._renewing is None:
            return
        self._ended.set()
        self._renewing.join(RENEWED_EVERY)
        self._renewing = None
        with suppress(SystemFault):
            if self._is_ours(self._read()):
                self._storage.delete(self._url)

    def check(self) -> None:
        """See whether the folder is still ours.

        Raises:
            TakenOver: it is not.
        """
        self._see(self._read())

    def _see(self, found: dict[str, Any] | None) -> None:
        if found is not None:
            _check(found, self.token, self._out)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            try:
                found = self._storage.read_one(self._url)
                self._see(_parsed(found))
                if self._ended.is_set():
                    return
                # Neither writes over a claim that has come since.
                if found is None:
                    self._storage.create(self._url, self._content())
                else:
                    self._storage.replace(self._url, found, self._content())
            except TakenOver as fault:
                self.lost = str(fault)
                return
            except SystemFault:
                continue  # storage that is away for a moment

    def _content(self) -> bytes:
        return json.dumps(self._who | {"renewed": time.time_ns()}).encode()

    def _read(self) -> dict[str, Any] | None:
        """What the claim says; None: there is no claim."""
        return _read(self._storage, self._out)

    def _is_ours(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found.get("token") == self.token

    def _is_renewed(self, theirs: dict[str, Any]) -> bool:
        """Whether a claim changes while we look: clocks of two machines need not agree."""
        until = time.monotonic() + STALE_AFTER
        while time.monotonic() < until:
            time.sleep(LOOK_EVERY)
            if self._read() != theirs:
                return True
        return False


class Lease:
    """The claim of a run, as its workers see it.

    A worker that stands still may be given up for dead, and then go on.

    Args:
        out: the folder, in full. token: of the claim; empty: there is none, nothing is looked at.
    """

    def __init__(self, storage: Storage, out: str, token: str) -> None:
        self._storage, self._out, self.token = storage, out, token
        self._seen = 0.0

    def check(self, at_most: float = 0.0) -> None:
        """See whether the folder is still that of the run, unless it was so a moment ago.

        Args:
            at_most: seconds since then, by the clock, which goes on where a machine sleeps.

        Raises:
            TakenOver: it is not. SystemFault: the claim cannot be read.
        """
        now = time.time()
        if not self.token or 0 <= now - self._seen < at_most:
            return
        found = _read(self._storage, self._out)
        if found is None:
            time.sleep(2 * RENEWED_EVERY)  # somebody has removed it, and the run puts it back
            found = _read(self._storage, self._out)
        if found is None:
            raise TakenOver(f"the run has ended: {redact_url(self._out)} is nobody's")
        _check(found, self.token, self._out)
        self._seen = now


def _check(found: dict[str, Any], token: str, out: str) -> None:
    if found.get("token") != token:
        raise TakenOver(
            f"another run has taken over {redact_url(out)}: process {found.get('pid')} on "
            f"{found.get('host')}"
        )


def who_works_on(storage: Storage, out: str) -> str:
    """Which run has the folder ``out``, for a person; empty: none that is known to be alive.

    Raises:
        SystemFault: the folder cannot be read.
    """
    theirs = _read(storage, out)
    if not theirs or _has_died(theirs):
        return ""
    silent = (time.time_ns() - theirs.get("renewed", 0)) / 1e9
    if silent > SILENT:  # whatever a clock elsewhere says
        return ""
    return f"process {theirs.get('pid')} on {theirs.get('host')}, since {theirs.get('since')}"


def _read(storage: Storage, out: str) -> dict[str, Any] | None:
    return _parsed(storage.read_one(join(out, NAME)))


def _parsed(claim: bytes | None) -> dict[str, Any] | None:
    if claim is None:
        return None
    try:
        found = json.loads(claim)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _has_died(theirs: dict[str, Any]) -> bool:
    """Whether the process that wrote a claim can be seen not to be there."""
    if theirs.get("here") != _here() or not isinstance(theirs.get("pid"), int):
        return False
    return theirs.get("started") != _started(theirs["pid"])


def _started(pid: int) -> str | None:
    """When a process that can be seen here was started; None: it is not there."""
    try:
        # After the name, which may have anything in it: proc(5), field 22.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _here() -> str:
    """Where process ids mean the same: this machine since it was started, or this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
