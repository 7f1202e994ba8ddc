"""A Prefect server for those who have none: one child process for one run."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO
from urllib.request import urlopen
from uuid import UUID

import httpx

from pipeline.child import start_child
from pipeline.errors import SystemFault

USUAL_PORT = 4200
OURS = "\0restyle has port 4200"  # an address that is no file: one for the machine, as ports are
START_SECONDS = 120
DRAIN_SECONDS = 10
RECORD_SECONDS = 60

# Seconds between two looks at whether the server lives, and how often it is started again: what
# dies so many times will not live.
LOOK_EVERY = 0.5
STARTED_AGAIN = 5

log = logging.getLogger(__name__)


@contextmanager
def prefect_api() -> Iterator[str]:
    """Inside, flows run against the configured Prefect API, or a server started for this run.

    Yields:
        The URL of its pages, for people. A server of our own uses Prefect's usual database, so
        ``prefect server start`` shows its runs later.

    Raises:
        SystemFault: the server did not start.
    """
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    settings = get_current_settings()
    if settings.api.url:
        yield settings.ui_url or str(settings.api.url).removesuffix("/api")
        return
    with _port() as port, tempfile.TemporaryFile() as output:
        address = f"http://127.0.0.1:{port}"
        server = _Server(port, address, output)
        import flows.stylize  # noqa: F401 -- takes seconds, too, and who wants an API wants it next

        try:
            _wait(server.child, f"{address}/api/health", output)
            server.keep()
            with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
                try:
                    yield address
                finally:
                    _send_what_waits()
        finally:
            server.close()


class _Server:
    """A Prefect server in a child process, which from keep() on is started again when it dies.

    Without one a run would do its work, and then try for minutes to tell of it.
    """

    def __init__(self, port: int, address: str, output: IO[bytes]) -> None:
        self._port, self._address, self._output = port, address, output
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="server", daemon=True)
        self.child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return start_child(
            "import runpy; runpy.run_module('prefect', run_name='__main__')",
            ["server", "start", "--host", "127.0.0.1", "--port", str(self._port),
             "--log-level", "WARNING"],
            stdout=self._output, stderr=subprocess.STDOUT,
            env=os.environ | {
                # Otherwise its pages ask port 4200.
                "PREFECT_SERVER_UI_API_URL": f"{self._address}/api",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
            },
        )  # fmt: skip

    def keep(self) -> None:
        """Look after it from now on."""
        self._keeper.start()

    def _keep(self) -> None:
        for _ in range(STARTED_AGAIN):
            while self.child.poll() is None:
                if self._ended.wait(LOOK_EVERY):
                    return
            log.warning(f"the Prefect server has died ({self.child.returncode}); another starts")
            self.child = self._start()

    def close(self) -> None:
        """End it."""
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()


def _send_what_waits() -> None:
    """Send log lines and events now: at exit, Prefect would try for minutes to reach no server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)


def wait_until_recorded(flow_run: UUID, task_runs: int, seconds: float = RECORD_SECONDS) -> None:
    """Give a server that is about to end the time to write down how so many task runs ended.

    It is told faster than it writes where shards are short. What it has not written is lost to
    its pages, not to the ledger; so the wait has an end.
    """
    from prefect.settings import PREFECT_API_URL

    count = f"{PREFECT_API_URL.value()}/task_runs/count"
    ended = {
        "flow_runs": {"id": {"any_": [str(flow_run)]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
    }
    deadline = time.monotonic() + seconds
    with suppress(httpx.TransportError):  # it has gone
        while time.monotonic() < deadline:
            with suppress(httpx.TimeoutException, httpx.HTTPStatusError):  # it is busy
                answer = httpx.post(count, json=ended, timeout=DRAIN_SECONDS)
                if answer.raise_for_status().json() >= task_runs:
                    return
            time.sleep(0.2)


def _wait(child: subprocess.Popen[bytes], health: str, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            output.seek(0)
            said = output.read().decode(errors="replace")[-2000:]
            raise SystemFault(f"the Prefect server ended with {child.returncode}:\n{said}")
        with suppress(OSError), urlopen(health, timeout=2):
            return
        time.sleep(0.2)
    raise SystemFault(
        f"the Prefect server did not answer at {health} within {START_SECONDS} s; start one "
        "yourself (prefect server start) and set PREFECT_API_URL"
    )


@contextmanager
def _port() -> Iterator[int]:
    """The usual port if it is free, for the sake of bookmarks; inside, it is ours.

    A server takes seconds to start. Two that started at the same time would both find the port
    free, and one run would use the other's server, and lose it when that run ends.
    """
    with socket.socket(socket.AF_UNIX) as claim, socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            claim.bind(OURS)
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        yield port
