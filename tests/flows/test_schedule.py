"""``restyle schedule`` as a program of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.responses import DeploymentResponse

from flows.cli import main
from pipeline.job import Job
from tests.conftest import write_photos
from tests.processes import RESTYLE, wait_until


@pytest.fixture
def served(job: Job, prefect: str, tmp_path: Path) -> Iterator[DeploymentResponse]:
    """The deployment of a job that is due in a year or so."""
    command = [
        "schedule", job.source, "--out", job.out, "--style", "red", "--pack", job.pack,
        "--size", "64", "--device", "cpu", "--cron", "0 3 29 2 *", "--timezone", "Europe/Berlin",
        "--name", "every-night",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*RESTYLE, *command], text=True, process_group=0, cwd=Path.cwd(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PREFECT_API_URL": prefect},
    )  # fmt: skip
    with get_client(sync_client=True) as client:
        wait_until(lambda: [d for d in client.read_deployments() if d.name == "every-night"])
        yield client.read_deployment_by_name("stylize/every-night")
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert "'0 3 29 2 *' (Europe/Berlin)" in said, said


def run_of(deployment: UUID, **more: Any) -> str:
    """The state in which a run of the deployment ends."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, **more)

        def state() -> str:
            return str(client.read_flow_run(run.id).state_name)

        wait_until(lambda: state() in ("Completed", "Failed", "Crashed", "Cancelled"), seconds=120)
        return state()


@pytest.mark.slow
def test_a_schedule_does_what_is_new(job: Job, served: DeploymentResponse) -> None:
    (schedule,) = served.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 29 2 *", "Europe/Berlin")
    assert served.global_concurrency_limit is not None
    assert served.global_concurrency_limit.limit == 1
    assert served.concurrency_options is not None
    assert served.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert run_of(served.id) == "Completed"
    images = Path(job.out, "images")
    assert len(list(images.iterdir())) == 8
    write_photos(Path(job.source), 2, first=8)
    before = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert run_of(served.id) == "Completed"
    after = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert len(after) == 10
    assert {name: after[name] for name in before} == before
    start = time.monotonic()
    assert run_of(served.id) == "Completed"
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cron", "every night"], "--cron 'every night'"),
        (["--cron", "0 3 * * *", "--timezone", "Mars/Olympus"], "Mars/Olympus"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(
    job: Job, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["schedule", job.source, "--out", job.out, "--style", "red", "--pack", job.pack]
    assert main([*command, *options]) == 2
    assert said in capsys.readouterr().err
