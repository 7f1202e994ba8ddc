from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.server import _port, wait_until_recorded
from tests.conftest import write_photos
from tests.pipeline.runs import committed
from tests.processes import RESTYLE, command_of, family, kill, wait_until

SHARDS = 30


@contextmanager
def started(
    folder: Path, pack: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A run that has done its first shard, its results, and its own server, if it has one."""
    source, out = write_photos(folder / "photos", SHARDS, size=500), folder / "out"
    command = [
        *RESTYLE, "run", str(source), "--out", str(out), "--style", "red", "--pack", pack,
        "--device", "cpu", "--shard-size", "1", "--workers", "1",
    ]  # fmt: skip
    own = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    run = subprocess.Popen(
        command, env=own | {"PREFECT_HOME": str(folder / "home")} | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until(lambda: committed(out) > 0 or run.poll() is not None)
        yield run, out, next((pid for pid in family(run.pid) if "runpy" in command_of(pid)), 0)
    finally:
        kill(family(run.pid))


def test_servers_that_start_at_the_same_time_have_ports_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _port() as one:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # that is no other machine
        with _port() as another:
            assert one != another


def test_a_server_that_has_gone_is_not_waited_for() -> None:
    with _port() as port:
        gone = f"http://127.0.0.1:{port}/api"
    start = time.monotonic()
    with temporary_settings({PREFECT_API_URL: gone}):
        wait_until_recorded(uuid4(), 1)
    assert time.monotonic() - start < 10


def test_workers_go_on_while_the_server_does_not_answer_and_it_is_told_all_the_same(
    tmp_path: Path, pack: str
) -> None:
    with started(tmp_path, pack) as (run, out, server):
        os.kill(server, signal.SIGSTOP)
        try:
            assert committed(out) < SHARDS / 2
            wait_until(lambda: committed(out) == SHARDS, 60)
        finally:
            os.kill(server, signal.SIGCONT)
            said = run.communicate(timeout=120)[0]
    assert run.returncode == 0, said
    with sqlite3.connect(tmp_path / "home" / "prefect.db") as database:
        recorded = database.execute("SELECT state_type, COUNT(*) FROM task_run GROUP BY 1")
        assert recorded.fetchall() == [("COMPLETED", SHARDS + 2)]


def test_a_server_that_dies_is_started_again_and_the_run_ends_well(
    tmp_path: Path, pack: str
) -> None:
    with started(tmp_path, pack) as (run, out, server):
        os.kill(server, signal.SIGKILL)
        said = run.communicate(timeout=180)[0]
    assert run.returncode == 0, said
    assert "the Prefect server has died" in said
    assert "Traceback" not in said
    assert (out / "_SUCCESS").exists()
    with sqlite3.connect(tmp_path / "home" / "prefect.db") as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("COMPLETED",)]


def test_a_server_of_others_that_goes_is_told_in_a_line(tmp_path: Path, pack: str) -> None:
    with _port() as port:
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
        environment = {
            "PREFECT_HOME": str(tmp_path / "theirs"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_CLIENT_MAX_RETRIES": "0",  # otherwise it is tried for minutes
        }
        server = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/api/health"), 120)
            with started(tmp_path, pack, **environment) as (run, out, _):
                kill(family(server.pid))
                said = run.communicate(timeout=180)[0]
        finally:
            kill(family(server.pid))
            server.wait()
    assert run.returncode == 1, said
    assert f"the Prefect server at http://127.0.0.1:{port} has gone" in said
    assert "Traceback" not in said
    assert committed(out) == SHARDS
    assert (out / "_SUCCESS").exists()


def answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url).is_success
    return False
