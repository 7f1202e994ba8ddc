"""Processor time of a worker for an image whose result is a file, or in a tar or table, at 256x256.

python -m tests.scale.layouts
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from pipeline.job import FOLDERS, Job
from pipeline.run import begin, prepare
from pipeline.shard import ShardWorker
from pipeline.spool import read_shard
from pipeline.url import join
from tests.scale.figures import show
from tests.scale.objects import bucket_elsewhere
from tests.scale.shards import write_linked_photos

ROUNDS = 5


def layouts(folder: Path, out: str, count: int) -> dict[str, float]:
    """Milliseconds for an image, the median of alternating rounds, by layout.

    Args:
        out: where the results go. count: images of a round.
    """
    photos = write_linked_photos(folder, count, 256)
    found: dict[str, list[float]] = {layout: [] for layout in FOLDERS}
    for number in range(ROUNDS + 1):
        for layout, times in found.items():
            job = Job(
                source=str(photos), out=join(out, f"{layout}{number}"), style="wave", size="256",
                layout=layout, shard_size=count,
            )  # fmt: skip
            request = prepare(job)
            _, refs = begin(request)
            worker = ShardWorker(request.job, request.pack, request.storage)
            shards = [(ref.key, read_shard(request.storage, ref)) for ref in refs]
            start = time.process_time()
            for key, rows in shards:
                worker.run(key, rows, lambda done, failed: None)
            times.append(1000 * (time.process_time() - start) / count)
            request.claim.release()
    # The first is for whatever is made only once.
    return {layout: round(statistics.median(times[1:]), 2) for layout, times in found.items()}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1024, help="images of a round")
    count = parser.parse_args().count
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, bucket_elsewhere() as bucket:
        folder = Path(name)
        (folder / "disk").mkdir()
        (folder / "bucket").mkdir()
        on_disk = layouts(folder / "disk", str(folder / "disk" / "out"), count)
        show({"disk": on_disk, "bucket": layouts(folder / "bucket", join(bucket, "out"), count)})


if __name__ == "__main__":
    main()
