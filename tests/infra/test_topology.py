"""What infra/compose.yaml sets up, without containers: all of it runs, and a scheduled job is done.

A Prefect server on PostgreSQL, an S3 server, a worker of a process pool, and the nightly deployment
of infra/prefect.yaml, every few seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.server import prefect_api
from pipeline.storage import Storage
from pipeline.verify import verify
from tests.conftest import jpeg
from tests.infra.postgres import PROGRAMS, postgres
from tests.infra.test_deployments import ROOT, prefect_says
from tests.pipeline.runs import ledger_of
from tests.processes import family, kill, wait_until

SECONDS = 15  # between two nights


def write_deployment(path: Path, job: dict[str, Any]) -> None:
    """infra/prefect.yaml as its comment asks: with places, and the schedule switched on."""
    deployments = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())
    (nightly,) = [one for one in deployments["deployments"] if one["name"] == "nightly"]
    nightly |= {"parameters": {"job": job}, "schedules": [{"interval": SECONDS, "active": True}]}
    path.write_text(yaml.safe_dump(deployments | {"deployments": [nightly]}))


@pytest.mark.extra
@pytest.mark.skipif(not PROGRAMS, reason="needs Debian's package postgresql")
def test_a_scheduled_job_from_bucket_to_bucket(
    s3: str, pack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().write({f"{s3}/in/{n}.jpg": jpeg(64, 64, n) for n in range(6)})
    job = {"source": f"{s3}/in", "out": f"{s3}/out", "style": "red", "pack": pack, "workers": 1}
    write_deployment(tmp_path / "prefect.yaml", job)
    with postgres() as database, temporary_settings({PREFECT_API_URL: None}):
        monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
        monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        with prefect_api() as address:
            api = f"{address}/api"
            prefect_says(api, "work-pool", "create", "restyle", "--type", "process")
            prefect_says(api, "deploy", "--all", "--prefect-file", str(tmp_path / "prefect.yaml"))
            worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", "restyle"],
                cwd=ROOT, env=os.environ | {"PREFECT_API_URL": api},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                wait_until(lambda: ended_runs(api), seconds=180)
                assert ledger_of(f"{s3}/out").column("status").to_pylist() == ["done"] * 6
                Storage().write({f"{s3}/in/new.jpg": jpeg(64, 64, 9)})
                wait_until(lambda: len(ledger_of(f"{s3}/out")) == 7, seconds=180)
                first, *_ = ended_runs(api)
            finally:
                everyone = family(worker.pid)
                worker.terminate()
                worker.wait(60)
                kill(everyone[1:])
    assert first.auto_scheduled
    assert first.state is not None
    assert (first.state_name, first.state.message) == ("Completed", "6 of 6 stylized")
    found = verify(Storage(), f"{s3}/out", lambda rows: None).findings
    assert not found


def ended_runs(api: str) -> list[FlowRun]:
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    ended = [run for run in runs if run.state_name in ("Completed", "Failed", "Crashed")]
    return sorted(ended, key=lambda run: str(run.end_time))
