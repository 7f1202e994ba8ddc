"""The automation of infra/crashed.py on a whole Prefect server."""

from __future__ import annotations

import pytest
from prefect import get_client
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running

from flows.stylize import stylize
from infra.crashed import HEARTBEAT, automation, main
from tests.processes import wait_until


@pytest.mark.slow
def test_a_run_whose_heart_has_stopped_has_crashed(whole_prefect: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: whole_prefect}),
        get_client(sync_client=True) as client,
    ):
        assert main() == 0
        (made,) = client.read_automations_by_name("restyle-crashed")
        assert made.trigger.within.total_seconds() == 90
        client.delete_automation(made.id)
        automation(silence=10).create()
        dead, silent = (client.create_flow_run(stylize, state=Running()) for _ in range(2))
        emit_event(HEARTBEAT, resource={"prefect.resource.id": f"prefect.flow-run.{dead.id}"})
        EventsWorker.drain_all(timeout=10)
        wait_until(lambda: client.read_flow_run(dead.id).state_name == "Crashed", seconds=90)
        assert client.read_flow_run(silent.id).state_name == "Running"
