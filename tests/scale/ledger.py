"""Time and memory to go on with a job whose ledger has many parts.

python -m tests.scale.ledger --parts 100000 --rows 2         # on disk
python -m tests.scale.ledger --parts 1000 --rows 2 --s3      # on an S3 server; counts requests

Each way of reading it is a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.job import Job
from pipeline.ledger import LEDGER_SCHEMA, Ledger, now
from pipeline.overlap import chunks
from pipeline.plan import Plan, Shard, plan_shards
from pipeline.report import write_report
from pipeline.run import Request, prepare, preview
from pipeline.status import read_status
from pipeline.storage import Storage
from pipeline.url import join
from tests.pipeline.servers import forward, s3_bucket, serving
from tests.scale.figures import measured, megabytes, show, write_manifest

WRITTEN_TOGETHER = 64

# Rows of the part whose size tells that of a ledger of usual parts.
USUAL_ROWS = 512


def _list(job: Job) -> None:
    Ledger(Storage(), job.out).shards()


def _read_whole(job: Job) -> None:
    for _ in Ledger(Storage(), job.out).read_parts():
        pass


def _plan(job: Job) -> None:
    assert preview(prepare(job)).left == 0


WAYS: dict[str, Callable[[Job], object]] = {
    "list": _list,
    "plan": _plan,
    "status": lambda job: read_status(Storage(), job.out),
    "report": lambda job: write_report(Storage(), job.out),
    "verify": _read_whole,  # all that it reads of the ledger
}


def write_ledger(request: Request) -> int:
    """A ledger in which every row of the job is done; its number of parts."""
    ledger = Ledger(request.storage, request.job.out)
    job = request.job
    assert job.shard_size != "auto"
    shards = plan_shards(
        request.manifest, ledger, job, request.digest, request.pack.names, Plan(),
        size=job.shard_size, workers=0,  # all of one size
    )  # fmt: skip
    count = 0
    for some in chunks(shards, WRITTEN_TOGETHER):
        request.storage.write({ledger.part_url(shard.key): _part(request, shard) for shard in some})
        count += len(some)
    request.output.begin(request.job, request.pack, request.manifest.carried, count, 0)
    return count


def _part(request: Request, shard: Shard) -> bytes:
    rows = shard.rows
    same: dict[str, Any] = {
        "status": "done", "attempts": 1, "source_format": "JPEG", "source_width": 256,
        "source_height": 256, "output_width": 256, "output_height": 256, "style": "wave",
        "strength": 1.0, "seed": 0, "model_digest": request.pack.digest,
        "job_digest": request.digest, "shard": shard.key, "finished_at": now(),
    }  # fmt: skip
    own: dict[str, Any] = {
        **{name: rows[name].combine_chunks() for name in ("id", "variant", "source_uri")},
        "source_size": [20_000 + number for number in range(len(rows))],
        "source_sha256": [os.urandom(32).hex() for _ in range(len(rows))],
        "output_uri": [f"images/{name}" for name in rows["_output_name"].to_pylist()],
        "output_bytes": [19_000 + number for number in range(len(rows))],
        "output_sha256": [os.urandom(32).hex() for _ in range(len(rows))],
    }
    columns = [own.get(name, [same.get(name)] * len(rows)) for name in LEDGER_SCHEMA.names]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=LEDGER_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def usual_part_bytes(folder: Path) -> int:
    """Bytes of a part of USUAL_ROWS rows."""
    request = prepare(_job(folder, USUAL_ROWS, USUAL_ROWS, str(folder / "usual")))
    write_ledger(request)
    (part,) = (folder / "usual" / "metadata").iterdir()
    return part.stat().st_size


def _job(folder: Path, rows: int, shard_size: int, out: str) -> Job:
    # The originals are gone, so that nobody waits for a bucket.
    source = write_manifest(folder / f"{rows}.parquet", rows, str(folder / "gone"))
    return Job(
        source=str(source), out=out, style="wave", shard_size=shard_size, allow_scheme=("file",)
    )


def read_in_every_way(job: Job) -> dict[str, Any]:
    """Figures of each of WAYS, by its name."""
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "tests.scale.ledger", "--way", way]
        said = subprocess.run(
            [*command, "--job", job.model_dump_json()], check=True, stdout=subprocess.PIPE
        ).stdout
        found[way] = json.loads(said)
    return found


def on_disk(folder: Path, parts: int, rows: int) -> dict[str, Any]:
    """Figures of a ledger of so many parts of so many rows."""
    job = _job(folder, parts * rows, rows, str(folder / "out"))
    request = prepare(job)
    wrote = measured(lambda: write_ledger(request))
    files = list((folder / "out" / "metadata").iterdir())
    return {
        "parts": len(files), "rows": rows, "bytes": sum(file.stat().st_size for file in files),
        "usual_rows": USUAL_ROWS, "usual_bytes": usual_part_bytes(folder), "write": wrote,
        "ways": read_in_every_way(job),
    }  # fmt: skip


def on_s3(folder: Path, bucket: str, parts: int, rows: int) -> dict[str, Any]:
    """What planning again takes of a ledger on S3, with its requests by method."""
    job = _job(folder, parts * rows, rows, join(bucket, "out"))
    write_ledger(prepare(job))
    with serving(forward(os.environ["AWS_ENDPOINT_URL"])) as server:
        there = job.model_copy(update={"storage_option": (f"endpoint_url={server.url}",)})
        took = measured(lambda: _plan(there))
    requests = Counter(one.split()[0] for one in server.asked)
    return {"parts": parts, "rows": rows, "plan": took, "requests": requests}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--job", type=Job.model_validate_json)
    options = parser.parse_args()
    if options.way:
        figures = measured(lambda: WAYS[options.way](options.job))
        show({**figures, "megabytes": megabytes("VmHWM")})
        return
    with tempfile.TemporaryDirectory(prefix="restyle-scale-") as folder:
        if options.s3:
            show(on_s3(Path(folder), s3_bucket(), options.parts, options.rows))
        else:
            show(on_disk(Path(folder), options.parts, options.rows))


if __name__ == "__main__":
    main()
