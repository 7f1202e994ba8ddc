"""The same job started several times at the same moment, on one folder.

python -m tests.proof.races --rounds 20          # half of them on disk, half on an S3 server
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.job import Job
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import verify
from tests.conftest import write_photos
from tests.pipeline.runs import TIMES, ledger_of, run_job
from tests.pipeline.servers import s3_bucket

ROWS, AT_ONCE = 24, 3

RUNNER = """
import sys, time
from pathlib import Path
import pipeline.shard
from pipeline.errors import RequestError
from pipeline.job import Job
from tests.pipeline.runs import run_job

job = Job.model_validate_json(sys.argv[1])
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
try:
    summary = run_job(job)
    print(f"{summary.new_done} done")
except RequestError as error:
    print("told who works on it" if "another run works on" in str(error) else error)
"""


def race(job: Job, start: Path) -> list[str]:
    """What each of some runs of a job said that were started at the same moment."""
    command = [sys.executable, "-c", RUNNER, job.model_dump_json(), str(start)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(AT_ONCE)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    start.touch()
    return [run.communicate()[0].strip().splitlines()[-1] for run in runs]


def races(folder: Path, bucket: str, rounds: int) -> dict[str, Any]:
    """Race on disk and on S3 in turn; what the runs said, and what was wrong with the results."""
    common: dict[str, Any] = {
        "source": str(write_photos(folder / "photos", ROWS)), "style": "wave", "size": "64",
        "shard_size": 4, "device": "cpu",
    }  # fmt: skip
    reference = Job(out=str(folder / "reference"), **common)
    run_job(reference)
    expected = ledger_of(reference.out).drop_columns(TIMES)
    said: Counter[str] = Counter()
    problems = []
    for number in range(rounds):
        place = bucket if number % 2 else str(folder)
        job = Job(out=join(place, f"out{number}"), **common)
        said.update(race(job, folder / f"start{number}"))
        if not ledger_of(job.out).drop_columns(TIMES).equals(expected):
            problems.append(f"round {number}: not the rows of a single run")
        problems += [
            f"round {number}: {f}" for f in verify(Storage(), job.out, lambda rows: None).findings
        ]
    return {"rounds": rounds, "runs": rounds * AT_ONCE, "said": said, "problems": problems}


def main() -> int:
    """Print the figures as JSON; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="restyle-races-") as folder:
        figures = races(Path(folder), s3_bucket(), options.rounds)
    print(json.dumps({**figures, "seconds": round(time.monotonic() - start, 1)}, indent=2))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
