"""An S3 that is far away: every request takes 50 ms longer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.job import Job
from pipeline.storage import Storage
from tests.conftest import jpeg
from tests.pipeline.runs import run_job
from tests.pipeline.servers import s3_environment

ROWS, ROUNDS = 100, 4
LATENCY = 0.05  # seconds

# In a process of its own, so as not to share an interpreter with what is measured.
SERVERS = f"""
import sys
from tests.pipeline.servers import forward, s3_server, serving
upstream = s3_server()
with serving(forward(upstream)) as near, serving(forward(upstream)) as far:
    far.latency = {LATENCY}
    print(near.url, far.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Addresses of one S3 server: at once, and after a while."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVERS], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    near, far = process.stdout.readline().split()
    for name, value in s3_environment(near).items():
        monkeypatch.setenv(name, value)
    yield near, far
    process.kill()
    process.communicate()


@pytest.mark.extra
def test_latency_of_s3_does_not_show(servers: tuple[str, str]) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="far")
    photos = {f"s3://far/photos/{n:04d}.jpg": jpeg(512, 512, n % 20) for n in range(ROWS)}
    Storage().write(photos)
    speeds: dict[str, list[float]] = {address: [] for address in servers}
    for number in range(ROUNDS):
        for address in servers:
            job = Job(
                source="s3://far/photos", out=f"s3://far/{address[-5:]}-{number}", style="wave",
                size="512", device="cpu", storage_option=(f"endpoint_url={address}",),
            )  # fmt: skip
            summary = run_job(job)
            assert summary.done == ROWS
            speeds[address].append(ROWS / summary.stages["wall"])
    near, far = (max(speeds[address]) for address in servers)
    print(f"{far:.1f} images/s with {LATENCY} s more for each request, {near:.1f} without")
    assert far > 0.9 * near, speeds
