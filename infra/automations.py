"""Automations on the server of PREFECT_API_URL."""

from __future__ import annotations

from prefect import get_client
from prefect.automations import Automation


def put(automation: Automation) -> None:
    """Make an automation; one of its name that is there already is replaced."""
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(automation.name):
            client.delete_automation(old.id)
    automation.create()
