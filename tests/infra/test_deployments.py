"""infra/prefect.yaml is what a Prefect server takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import get_client

ROOT = Path(__file__).parents[2]


def prefect_says(api: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env=os.environ | {"PREFECT_API_URL": api, "PWD": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.mark.slow
def test_the_deployments_are_taken_with_a_form_for_every_parameter(prefect: str) -> None:
    prefect_says(prefect, "work-pool", "create", "restyle", "--type", "process")
    prefect_says(prefect, "deploy", "--all", "--prefect-file", "infra/prefect.yaml")
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("stylize/nightly")
        train = client.read_deployment_by_name("train/train")
    assert nightly.concurrency_options is not None
    assert nightly.concurrency_options.collision_strategy == "CANCEL_NEW"
    (schedule,) = nightly.schedules
    assert not schedule.active
    assert nightly.pull_steps is not None
    assert str(ROOT) in str(nightly.pull_steps)
    for deployment in (nightly, train):
        schema = deployment.parameter_openapi_schema
        assert schema is not None
        (model,) = [one for one in schema["definitions"].values() if "properties" in one]
        missing = [name for name, one in model["properties"].items() if "description" not in one]
        assert missing == []
