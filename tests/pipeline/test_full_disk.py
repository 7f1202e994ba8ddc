"""A job whose disk is full in the middle: a small file system of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.job import Job
from tests.conftest import write_photos
from tests.pipeline.runs import changed

ROOT = Path(__file__).parents[2]

SCRIPT = """
import subprocess, sys
from pipeline.errors import SystemFault
from pipeline.job import Job
from tests.pipeline.runs import ledger_of, run_job

job = Job.model_validate_json(sys.argv[1])
try:
    run_job(job)
except SystemFault as fault:
    print(fault)
    rows = ledger_of(job.out)
    print(len(rows), "committed", rows["status"].unique().to_pylist())
subprocess.run(["mount", "-o", "remount,size=64m", job.out], check=True)
summary = run_job(job)
print(summary.done, "done", summary.failed, "failed")
"""


def in_namespace(*command: str) -> list[str]:
    """The command as root of a mount namespace of its own."""
    return ["unshare", "--map-root-user", "--mount", *command]


def test_a_full_disk_stops_the_run_which_carries_on_when_there_is_room(job: Job) -> None:
    if subprocess.run(in_namespace("true"), check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    out = Path(job.out)
    out.mkdir()
    write_photos(Path(job.source), 32, size=256)
    job = changed(job, size="256", format="png")
    mount = f'mount -t tmpfs -o size=2m tmpfs "{out}" && exec "$@"'
    ended = subprocess.run(
        in_namespace(
            "sh", "-c", mount, "sh", sys.executable, "-c", SCRIPT, job.model_dump_json()
        ),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, check=False,
    )  # fmt: skip
    fault, committed, again = ended.stdout.splitlines()
    assert "cannot write" in fault
    assert "No space left on device" in fault
    number, _, states = committed.partition(" committed ")
    assert 0 < int(number) < 32
    assert states == "['done']"
    assert again == "32 done 0 failed"
