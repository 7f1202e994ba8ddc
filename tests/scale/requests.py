"""S3 requests of a job: for each image, for each shard, and for the run.

python -m tests.scale.requests
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.job import Job
from pipeline.storage import Storage
from pipeline.url import join
from tests.conftest import jpeg, write_pack
from tests.pipeline.runs import run_job
from tests.pipeline.servers import forward, s3_bucket, serving
from tests.scale.figures import show

CLAIM = ".restyle-claim"
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


def requests(bucket: str, pack: str, rows: int) -> dict[str, Any]:
    """Requests by method, told apart by three jobs of different sizes and cuts."""

    def count(rows: int, shards: int) -> Counter[str]:
        out = join(bucket, f"out-{rows}-{shards}")
        server.asked.clear()
        job = Job(
            source=join(bucket, f"photos-{rows}"), out=out, style="wave", size="16", pack=pack,
            device="cpu", shard_size=rows // shards,
            storage_option=(f"endpoint_url={server.url}",),
        )  # fmt: skip
        summary = run_job(job)
        assert (summary.done, summary.shards) == (rows, shards)
        # The claim is renewed every few seconds, however much is done.
        return Counter(one.split()[0] for one in server.asked if CLAIM not in one)

    for many in (rows, 2 * rows):
        photos = join(bucket, f"photos-{many}")
        Storage().write({join(photos, f"{n}.jpg"): jpeg(16, 16, n) for n in range(many)})
    with serving(forward(os.environ["AWS_ENDPOINT_URL"])) as server:
        few, more, finer = count(rows, 1), count(2 * rows, 1), count(2 * rows, 5)
    found: dict[str, dict[str, float]] = {"image": {}, "shard": {}, "run": {}}
    for method in METHODS:
        image = (more[method] - few[method]) / rows
        shard = (finer[method] - more[method]) / 4
        found["image"][method], found["shard"][method] = round(image, 3), round(shard, 3)
        found["run"][method] = round(few[method] - rows * image - shard, 1)
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50, help="a multiple of 5")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restyle-scale-") as folder:
        pack = Path(folder) / "tiny.safetensors"
        write_pack(pack, "wave")
        show(requests(s3_bucket(), str(pack), options.rows))


if __name__ == "__main__":
    main()
