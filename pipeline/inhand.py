"""Which rows a worker has in hand, where its parent can see them after the worker's death.

A decoder may crash the process that it runs in, or never come back. Such an image must cost one
row and not the shard, so it has to be found out: what was in hand when a worker died is done
alone by the next, and what is in hand alone when a worker dies, twice, is put aside.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

# Rows that can be seen at once; a batch has more only where the images are tiny.
SLOTS = 1024
SLOT = np.dtype([("row", "<i8"), ("until", "<f8")])  # row 0: free; so they count from 1
BEATS = np.dtype("<i8")

# Deaths of workers that had a row in hand and no other.
STRIKES = 2


class Board:
    """Rows in hand, in memory that two processes share.

    Args:
        descriptor: of another process's board; without it a new one is made.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("restyle")
            os.truncate(descriptor, SLOTS * SLOT.itemsize + BEATS.itemsize)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SLOTS * SLOT.itemsize + BEATS.itemsize)
        self._slots = np.frombuffer(self._memory, SLOT, SLOTS)
        self._beats = np.frombuffer(self._memory, BEATS, 1, SLOTS * SLOT.itemsize)
        self._free = list(range(SLOTS))
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, rows: Sequence[int], seconds: float = math.inf) -> Iterator[None]:
        """Inside, ``rows`` are in hand, and that for no longer than ``seconds``."""
        with self._lock:
            slots = [self._free.pop() for _ in rows[: len(self._free)]]
        for slot, row in zip(slots, rows, strict=False):
            # In this order, as another process looks meanwhile.
            self._slots["until"][slot] = time.monotonic() + seconds
            self._slots["row"][slot] = row + 1
        try:
            yield
        finally:
            self._slots["row"][slots] = 0
            with self._lock:
                self._free += slots

    def rows(self) -> frozenset[int]:
        """The rows in hand, or at the death of the process that had them."""
        return frozenset(row - 1 for row in self._slots["row"].tolist() if row)

    def is_overdue(self) -> bool:
        """Whether one of them has been in hand for too long."""
        late = (self._slots["row"] > 0) & (self._slots["until"] < time.monotonic())
        return bool(late.any())

    def beat(self) -> None:
        """Say that there is progress, where it takes long until a row is finished."""
        self._beats[0] += 1

    def beats(self) -> int:
        """A number that changes as long as there is progress."""
        return int(self._beats[0])

    def close(self) -> None:
        """Give the descriptor back; what the board says stays readable."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class Suspects:
    """Rows of one shard, by number in it, that may be what its workers died of.

    Args:
        strikes: rows to be done alone, and how many workers died with them alone in hand.
        lost: rows that are not to be done, and why.
    """

    strikes: Mapping[int, int] = field(default_factory=dict)
    lost: Mapping[int, str] = field(default_factory=dict)

    def after_death(self, rows: frozenset[int], late: str = "") -> Suspects:
        """What is known after a worker has died with ``rows`` in hand.

        Args:
            late: what to say of a row that takes too long, if the worker was killed for that.
                Others in hand may have waited for that one, so this too is known only of a row
                that was done alone.
        """
        strikes = {**dict.fromkeys(rows, 0), **self.strikes}
        lost = dict(self.lost)
        for row in rows if self.are_explained_by(rows) else ():
            strikes[row] += 1
            if late or strikes[row] == STRIKES:
                del strikes[row]
                lost[row] = late or f"{STRIKES} worker processes ended while they did it alone"
        return Suspects(strikes, lost)

    def are_explained_by(self, rows: frozenset[int]) -> bool:
        """Whether a death with ``rows`` in hand says which of the suspects it was."""
        return len(rows) == 1 and rows <= self.strikes.keys()


NOBODY = Suspects()
