"""``restyle schedule`` as a program of its own."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.responses import DeploymentResponse
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.cli import main
from pipeline.job import Job
from tests.conftest import write_photos
from tests.processes import RESTYLE, family, is_running, wait_until


@pytest.fixture
def served(job: Job, tmp_path: Path) -> Iterator[DeploymentResponse]:
    """The deployment of a job that is due every night, on the server that the command starts."""
    command = [
        "schedule", job.source, "--out", job.out, "--style", "red", "--pack", job.pack,
        "--size", "64", "--device", "cpu", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin",
        "--name", "every-night",
    ]  # fmt: skip
    said = tmp_path / "said"
    with said.open("w") as words:
        process = subprocess.Popen(
            [*RESTYLE, *command], process_group=0, stdout=words, stderr=words,
            env=os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")},
        )  # fmt: skip
    try:
        wait_until(lambda: "/deployments" in said.read_text(), seconds=120)
        (address,) = re.findall(r"(http:\S+)/deployments", said.read_text())
        with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
            with get_client(sync_client=True) as client:
                wait_until(lambda: [d.name for d in client.read_deployments()] == ["every-night"])
                deployment = client.read_deployment_by_name("stylize/every-night")
            yield deployment
    finally:
        begun = family(process.pid)
        process.terminate()
        process.wait(120)
    assert process.returncode == 0
    wait_until(lambda: not any(map(is_running, begun)))
    assert "'0 3 * * *' (Europe/Berlin)" in said.read_text()
    assert "Traceback" not in said.read_text()


def run_of(deployment: UUID, **more: Any) -> str:
    """The state in which a run of the deployment ends."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment, **more)

        def state() -> str:
            return str(client.read_flow_run(run.id).state_name)

        wait_until(lambda: state() in ("Completed", "Failed", "Crashed", "Cancelled"), seconds=120)
        return state()


def nights(deployment: UUID) -> list[datetime]:
    """When the scheduler will have the deployment run."""
    of_it = FlowRunFilter(
        deployment_id={"any_": [deployment]}, state={"name": {"any_": ["Scheduled"]}}
    )
    with get_client(sync_client=True) as client:
        return [run.expected_start_time for run in client.read_flow_runs(flow_run_filter=of_it)]


@pytest.mark.slow
def test_a_schedule_does_what_is_new(job: Job, served: DeploymentResponse) -> None:
    (schedule,) = served.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
    assert served.global_concurrency_limit is not None
    assert served.global_concurrency_limit.limit == 1
    assert served.concurrency_options is not None
    assert served.concurrency_options.collision_strategy == "CANCEL_NEW"
    wait_until(lambda: nights(served.id))
    assert {hour.astimezone(ZoneInfo("Europe/Berlin")).hour for hour in nights(served.id)} == {3}
    assert run_of(served.id) == "Completed"
    images = Path(job.out, "images")
    assert len(list(images.iterdir())) == 8
    write_photos(Path(job.source), 2, first=8)
    before = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert run_of(served.id) == "Completed"
    after = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert len(after) == 10
    assert {name: after[name] for name in before} == before
    # It is ended in the midst of a run, which is ended with it.
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(served.id).id
        wait_until(lambda: client.read_flow_run(run).state_name == "Running", seconds=60)


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
