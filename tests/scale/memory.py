"""Memory of a worker that does very many images, of sizes that all differ.

python -m tests.scale.memory --images 50000
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.job import Job
from pipeline.run import begin, prepare
from pipeline.workers import WorkerPool
from tests.conftest import jpeg, write_pack
from tests.processes import workers_of
from tests.scale.figures import megabytes, show

# Different photos, and the sides that they may have, pixels.
DISTINCT, SIDES = 256, (48, 192)

SHARD = 250


def write_photos_of_all_sizes(folder: Path, images: int) -> Path:
    """A manifest in which some photos of different sizes come again and again, in no order."""
    lot = random.Random(0)
    folder.mkdir()
    for number in range(DISTINCT):
        photo = jpeg(lot.randint(*SIDES), lot.randint(*SIDES), number)
        (folder / f"{number}.jpg").write_bytes(photo)
    table = {
        "uri": [f"{lot.randrange(DISTINCT)}.jpg" for _ in range(images)],
        "id": [f"{number // 1000:06d}/{number:09d}" for number in range(images)],
    }
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def memory(folder: Path, images: int) -> dict[str, Any]:
    """Megabytes of one worker process after each of its shards."""
    write_pack(folder / "tiny.safetensors", "wave")
    job = Job(
        source=str(write_photos_of_all_sizes(folder / "photos", images)), out=str(folder / "out"),
        style="wave", pack=str(folder / "tiny.safetensors"), shard_size=SHARD, device="cpu",
        workers=1,
    )  # fmt: skip
    request = prepare(job)
    _, refs = begin(request)
    pool = WorkerPool(request.job, ["cpu"])
    samples: list[tuple[int, float]] = []
    done = 0
    try:
        for ref in refs:
            result = pool.run(ref, lambda message: None)
            assert result.failed == 0, result.failures
            done += result.done
            (worker,) = workers_of(os.getpid())
            samples.append((done, megabytes(pid=worker)))
    finally:
        pool.close()
        request.claim.release()
    return {"images": done, "sides": SIDES, "megabytes": samples}


def growth(samples: list[tuple[int, float]], since: int) -> float:
    """How much more memory there is at the end than after ``since`` images, as a share."""
    return samples[-1][1] / warm(samples, since)[1] - 1


def warm(samples: list[tuple[int, float]], since: int) -> tuple[int, float]:
    """The first sample after ``since`` images, or the last one."""
    return next((sample for sample in samples if sample[0] >= since), samples[-1])


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restyle-scale-") as folder:
        show(memory(Path(folder), options.images))


if __name__ == "__main__":
    main()
