"""``restyle run`` as a program of its own, with a Prefect server of its own, killed and resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.ledger import Ledger
from pipeline.storage import Storage
from tests.conftest import write_photos
from tests.pipeline.runs import committed
from tests.processes import RESTYLE, wait_until, workers_of

ROWS = 120


@pytest.fixture
def command(tmp_path: Path, pack: str) -> list[str]:
    """Photos large enough that there is time to interrupt."""
    photos = write_photos(tmp_path / "photos", ROWS, size=700)
    return [
        *RESTYLE, "run", str(photos), "--out", str(tmp_path / "out"), "--style", "red",
        "--pack", pack, "--shard-size", "5", "--workers", "2", "--format", "png",
    ]  # fmt: skip


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_nothing_is_lost_when_workers_and_runs_are_killed(
    command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    run = start(command)
    wait_until(lambda: committed(out) >= 1)
    os.killpg(run.pid, signal.SIGINT)  # Ctrl-C
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 130
    assert "the same command carries on" in said
    assert 0 < committed(out) < ROWS / 5
    assert not (out / "_SUCCESS").exists()

    run = start(command)
    wait_until(lambda: workers_of(run.pid))
    workers = workers_of(run.pid)
    run.kill()
    run.communicate(timeout=60)
    wait_until(lambda: not any(map(exists, workers)), seconds=10)

    run = start(command)
    before = committed(out)
    wait_until(lambda: committed(out) > before)
    os.kill(min(workers_of(run.pid)), signal.SIGKILL)
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 0, said
    assert f"{ROWS} of {ROWS} stylized" in said
    assert re.search(r"images/s", said)
    dataset = Ledger(Storage(), str(out)).dataset()
    assert dataset is not None
    ids = dataset.to_table(["id"]).column("id").to_pylist()
    assert sorted(ids) == sorted(f"{number:03d}.jpg" for number in range(ROWS))
    assert len(list((out / "images").iterdir())) == ROWS
    assert (out / "_SUCCESS").exists()
