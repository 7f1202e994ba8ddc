"""Runs that are told to stop, by a signal or in Prefect's pages, and runs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelling, Suspended

from pipeline.job import Job
from tests.conftest import write_photos
from tests.pipeline.runs import committed, ledger_of, run_job
from tests.processes import RESTYLE, command_of, family, is_running, wait_until, workers_of

ROWS = 120

SERVE = """
from flows.schedule import ONE_AT_A_TIME
from flows.stylize import stylize
stylize.serve("stopped", global_limit=ONE_AT_A_TIME)
"""


@pytest.fixture
def long_job(tmp_path: Path, pack: str) -> Job:
    source = write_photos(tmp_path / "photos", ROWS, size=700)
    return Job(
        source=str(source), out=str(tmp_path / "out"), style="red", pack=pack, device="cpu",
        shard_size=5, workers=2, format="png",
    )  # fmt: skip


def start(command: Sequence[str], prefect: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, text=True, process_group=0,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PREFECT_API_URL": prefect},
    )  # fmt: skip


def wait_until_ended(everyone: Iterable[int], seconds: float = 10) -> None:
    with suppress(AssertionError):
        wait_until(lambda: not any(map(is_running, everyone)), seconds)
    assert [command_of(pid) for pid in everyone if is_running(pid)] == []


@pytest.mark.slow
def test_nothing_is_lost_when_workers_and_runs_are_killed(long_job: Job, prefect: str) -> None:
    out = Path(long_job.out)
    command = [
        *RESTYLE, "run", long_job.source, "--out", long_job.out, "--style", "red",
        "--pack", long_job.pack, "--shard-size", "5", "--workers", "2", "--format", "png",
        "--device", "cpu",
    ]  # fmt: skip

    def begin() -> subprocess.Popen[str]:
        """A run that has done something, not all."""
        before = committed(out)
        run = start(command, prefect)
        wait_until(lambda: committed(out) > before)
        return run

    def stopped(run: subprocess.Popen[str], everyone: Iterable[int]) -> None:
        said = run.communicate(timeout=60)[0]
        assert run.returncode == 130, said
        assert "the same command carries on" in said
        wait_until_ended(everyone)
        assert not (out / ".restyle-claim").exists()
        assert not (out / "_SUCCESS").exists()
        with get_client(sync_client=True) as client:
            (last,) = client.read_flow_runs(limit=1, sort=FlowRunSort.START_TIME_DESC)
            assert last.state_name == "Cancelled"

    run = begin()
    everyone = family(run.pid)
    os.killpg(run.pid, signal.SIGINT)  # Ctrl-C
    stopped(run, everyone)
    assert committed(out) < ROWS / 5

    run = begin()
    everyone = family(run.pid)
    run.terminate()
    stopped(run, everyone)
    assert committed(out) < ROWS / 5

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # not as below nohup
    run = begin()
    signal.signal(signal.SIGHUP, before)
    everyone = family(run.pid)
    run.send_signal(signal.SIGHUP)  # the terminal was closed
    stopped(run, everyone)

    run = begin()
    everyone = family(run.pid)
    run.kill()
    run.communicate(timeout=60)
    wait_until_ended(everyone)

    run = begin()
    os.kill(min(workers_of(run.pid)), signal.SIGKILL)
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 0, said
    assert f"{ROWS} of {ROWS} stylized" in said
    assert "images/s" in said
    table = ledger_of(out)
    assert table.column("id").to_pylist() == [f"{number:03d}.jpg" for number in range(ROWS)]
    assert table.column("status").to_pylist() == ["done"] * ROWS
    assert len(list((out / "images").iterdir())) == ROWS
    assert (out / "_SUCCESS").exists()


@contextmanager
def deployed_run(job: Job, prefect: str) -> Iterator[tuple[SyncPrefectClient, UUID, int]]:
    """A deployment's run that has done a shard, and the process that serves the deployment."""
    server = start([sys.executable, "-c", SERVE], prefect)
    try:
        with get_client(sync_client=True) as client:
            wait_until(lambda: [d for d in client.read_deployments() if d.name == "stopped"])
            deployment = client.read_deployment_by_name("stylize/stopped")
            parameters = {"job": job.model_dump(mode="json")}
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
            wait_until(lambda: committed(Path(job.out)) >= 1, seconds=120)
            yield client, run.id, server.pid
    finally:
        server.kill()
        server.communicate()


@pytest.mark.slow
def test_a_run_that_is_cancelled_stops_and_carries_on(long_job: Job, prefect: str) -> None:
    out = Path(long_job.out)
    with deployed_run(long_job, prefect) as (client, run, server):
        # But for what the server has for itself.
        everyone = [pid for pid in family(server)[1:] if "tracker" not in command_of(pid)]
        client.set_flow_run_state(run, Cancelling(message="from the page"), force=True)
        wait_until(lambda: client.read_flow_run(run).state_name == "Cancelled")
        wait_until_ended(everyone)
        assert not (out / ".restyle-claim").exists()
    assert committed(out) < ROWS / 5
    assert run_job(long_job).done == ROWS


@pytest.mark.extra
def test_a_run_that_is_suspended_stops_until_it_is_resumed(long_job: Job, prefect: str) -> None:
    out = Path(long_job.out)
    with deployed_run(long_job, prefect) as (client, run, _):
        client.set_flow_run_state(run, Suspended(timeout_seconds=3600))
        wait_until(lambda: not (out / ".restyle-claim").exists(), seconds=30)
        assert client.read_flow_run(run).state_name == "Suspended"
        before = committed(out)
        assert before < ROWS / 5
        client.resume_flow_run(run)
        wait_until(lambda: client.read_flow_run(run).state_name == "Completed")
        state = client.read_flow_run(run).state
        assert state is not None
        assert "in this run" in str(state.message)
    table = ledger_of(out)
    assert table.column("status").to_pylist() == ["done"] * ROWS
    assert len(set(table.column("shard").to_pylist())) > before
