"""Suspend, as the Prefect UI has it for the runs of deployments."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import httpx
from prefect import State, get_client
from prefect.exceptions import Pause, PrefectException
from prefect.runtime import flow_run

# Seconds between two looks: each is a request to the API.
LOOK_EVERY = 5.0


def _state() -> State[Any] | None:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run.id).state


class Suspension:
    """Whether somebody has suspended this flow run, which Prefect itself does not tell it."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._ending: Pause | None = None

    def asked(self) -> bool:
        """Whether the run shall end here, to be begun again when it is resumed."""
        if self._ending is None and time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            with suppress(httpx.HTTPError, PrefectException):  # it is asked again soon
                state = _state()
                if state is not None and state.is_paused():
                    self._ending = Pause(state=state)
        return self._ending is not None

    def end(self) -> None:
        """End the run if it was suspended; it stays Suspended.

        Raises:
            Pause: which is how Prefect wants to be told.
        """
        if self._ending is not None:
            raise self._ending
