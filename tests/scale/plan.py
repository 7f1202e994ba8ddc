"""Time and memory to plan a job, and to write the plan down for the workers.

python -m tests.scale.plan --rows 1000000 --shard-size 512 --spool
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from pipeline.job import Job
from pipeline.run import begin, prepare, preview
from tests.scale.figures import measured, megabytes, show, write_manifest


def plan(folder: Path, rows: int, shard_size: int, spool: bool) -> dict[str, Any]:
    """Figures of one plan; with ``spool``, written down as a run does."""
    source = write_manifest(folder / "manifest.parquet", rows)
    job = Job(source=str(source), out=str(folder / "out"), style="wave", shard_size=shard_size)
    request = prepare(job)
    before = megabytes()
    try:
        figures = measured(lambda: begin(request) if spool else preview(request))
    finally:
        request.claim.release()
    files = (folder / "out").rglob("*.shards")
    return {
        "rows": rows, "shard_size": shard_size, "spool": spool, **figures,
        "megabytes": megabytes("VmHWM"), "megabytes_before": before,
        "spool_bytes": sum(file.stat().st_size for file in files),
    }  # fmt: skip


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--spool", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restyle-scale-") as folder:
        show(plan(Path(folder), **vars(options)))


if __name__ == "__main__":
    main()
