"""Takes the power from a disk in the midst of a run, and looks at what it holds. Wants root.

python -m tests.proof.power --cuts 10 --seed 0

The results lie on a file system within a file. At a moment drawn from the seed the run is stopped,
and what has reached that file by then is copied: what a disk would hold after a power cut. In the
copy every row that the ledger has as done must have its result, byte for byte; then the same
command does the rest there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import RequestError
from pipeline.storage import Storage
from pipeline.verify import verify
from tests.conftest import write_pack, write_photos
from tests.processes import RESTYLE, family, kill, wait_until

ROWS, SHARD = 600, 20
DISK = 256 << 20  # bytes

# Seconds that a stopped run stands still before the cut: Linux writes names every 5 s, and what
# belongs to them up to 30 s later.
STILL = (0.0, 6.0)

# Shards that are done when it is stopped.
DONE = (1, ROWS // SHARD - 2)


def main() -> int:
    """Cut as often as asked for; print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lot = random.Random(options.seed)
    found: dict[str, Any] = {"cuts": 0, "done": 0, "left": 0, "problems": []}
    with tempfile.TemporaryDirectory(prefix="restyle-power-") as folder:
        write_photos(Path(folder, "photos"), ROWS)
        write_pack(Path(folder, "pack.safetensors"), "red")
        for _ in range(options.cuts):
            _cut(Path(folder), lot, found)
    print(json.dumps(found))
    return 1 if found["problems"] else 0


def _cut(folder: Path, lot: random.Random, found: dict[str, Any]) -> None:
    disk, copy = folder / "disk", folder / "copy"
    disk.write_bytes(b"")
    os.truncate(disk, DISK)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    with _mounted(disk) as place:
        run = subprocess.Popen(
            _command(folder, place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        parts = place / "out" / "metadata"
        wanted = lot.randint(*DONE)
        wait_until(lambda: run.poll() is not None or len(list(parts.glob("*"))) >= wanted)
        stopped = family(run.pid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(lot.choice(STILL))
        before = None
        while before != (before := disk.stat().st_mtime_ns):  # it must not change under the copy
            shutil.copyfile(disk, copy)
        kill(stopped)
        run.wait()
    found["cuts"] += 1
    with _mounted(copy) as place:
        out = str(place / "out")
        try:
            verdict = verify(Storage(), out, lambda rows: None)
        except RequestError as error:
            found["problems"].append(str(error))
            return
        found["problems"] += [f"{one.kind}: {one.path}: {one.why}" for one in verdict.wrong]
        found["done"] += verdict.done
        found["left"] += verdict.left
        ended = subprocess.run(
            _command(folder, place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        after = verify(Storage(), out, lambda rows: None)
        if ended.returncode or after.done != ROWS or after.wrong:
            found["problems"].append(f"{after.done} of {ROWS} rows without interruption")


def _command(folder: Path, place: Path) -> list[str]:
    return [*RESTYLE, "run", str(folder / "photos"), "--out", str(place / "out"), "--style", "red",
            "--pack", str(folder / "pack.safetensors"), "--size", "64", "--workers", "2",
            "--shard-size", str(SHARD)]  # fmt: skip


@contextmanager
def _mounted(disk: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="restyle-disk-"))
    subprocess.run(["mount", "-o", "loop", str(disk), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


if __name__ == "__main__":
    sys.exit(main())
