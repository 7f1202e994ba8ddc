"""A flow run with many shards: what each costs beyond the work itself.

python -m tests.scale.shards --shards 1000                # a tiny network, a server of its own
python -m tests.scale.shards --shards 8 --shard-size 512 --size 256 --pack shipped --workers auto

With PREFECT_API_URL set, on that server.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from pipeline.job import Job
from tests.conftest import jpeg
from tests.processes import command_of, family
from tests.scale.figures import megabytes, show

DISTINCT = 64  # photos; all others are links to them

# Times at which memory is looked at, spread over the run.
LOOKS = 50

# Seconds in which a server has to have written down that all shards are done.
RECORDED_IN = 300

MAKE_PACK = """
import sys
from pathlib import Path
from tests.conftest import write_pack
write_pack(Path(sys.argv[1]), "wave")
"""


def write_linked_photos(folder: Path, count: int, side: int) -> Path:
    """``count`` photos in folders of a thousand, some of them different."""
    (folder / "distinct").mkdir(parents=True)
    for number in range(min(DISTINCT, count)):
        (folder / "distinct" / f"{number}.jpg").write_bytes(jpeg(side, side, number))
    for number in range(count):
        path = folder / "photos" / f"{number // 1000:06d}" / f"{number:09d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(folder / "distinct" / f"{number % DISTINCT}.jpg")
    return folder / "photos"


@contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """Inside, counts what this process asks Prefect's API, and events that it sends."""
    from prefect.events.clients import PrefectEventsClient

    counts: Counter[str] = Counter()

    def counting(call: Any, name: Callable[[Any], str]) -> Any:
        def counted(self: Any, subject: Any, *rest: Any, **options: Any) -> Any:
            counts[name(subject)] += 1
            return call(self, subject, *rest, **options)

        return counted

    def request_name(request: httpx.Request) -> str:
        return f"{request.method} {_generic(request.url.path)}"

    with ExitStack() as stack:
        for client in (httpx.Client, httpx.AsyncClient):
            send = counting(client.send, request_name)
            stack.enter_context(mock.patch.object(client, "send", send))
        emit = counting(PrefectEventsClient._emit, lambda event: f"event {event.event}")
        stack.enter_context(mock.patch.object(PrefectEventsClient, "_emit", emit))
        yield counts


def _generic(path: str) -> str:
    return re.sub(r"[0-9a-f-]{32,36}", "ID", path.removeprefix("/api"))


class _Complaints(logging.Handler):
    """Counts warnings and errors by their first words."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.getMessage()[:200]] += 1


@contextmanager
def _complaints() -> Iterator[Counter[str]]:
    handler = _Complaints()
    loggers = [logging.getLogger(name) for name in (None, "prefect", "prefect.flow_runs")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.counts
    for logger in loggers:
        logger.removeHandler(handler)


def _cpu(pids: list[int]) -> float:
    """Seconds of a core that processes have had."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run(job: Job) -> dict[str, Any]:
    """Figures of a flow run of a job, in this process."""
    from flows.server import prefect_api, wait_until_recorded
    from flows.stylize import stylize
    from tasks.progress import Snapshot, watcher

    memory: list[tuple[int, float]] = []
    beginning: dict[str, float] = {}

    with counted_requests() as requests, prefect_api(), _complaints() as complaints:

        def look(snapshot: Snapshot) -> None:
            done = snapshot.done + snapshot.failed
            if done and not beginning:
                beginning.update(clock=time.perf_counter(), cpu=time.process_time(), done=done)
                requests.clear()
            if done and (not memory or done - memory[-1][0] >= snapshot.rows / LOOKS):
                memory.append((done, megabytes()))

        servers = [pid for pid in family(os.getpid()) if "runpy" in command_of(pid)]
        before = _cpu(servers)
        server_memory = [sum(megabytes(pid=pid) for pid in servers)]
        token = watcher.set(look)
        state = stylize(job, return_state=True)
        watcher.reset(token)
        seconds = time.perf_counter() - beginning["clock"]
        cpu = time.process_time() - beginning["cpu"]
        server_memory.append(sum(megabytes(pid=pid) for pid in servers))
        summary = state.result(raise_on_failure=False)
        # The first shard's time is that of the worker's start.
        share = 1 - beginning["done"] / summary.rows
        asked = requests.copy()
        run_id = state.state_details.flow_run_id
        ended = time.monotonic()
        wait_until_recorded(run_id, summary.shards + 2, RECORDED_IN)  # the plan, and the end
        late = time.monotonic() - ended
        server_cpu = _cpu(servers) - before
        states = _states(str(run_id))
    shards = summary.shards * share
    return {
        "rows": summary.rows, "shards": summary.shards, "state": state.type.value,
        "done": summary.done, "failed": summary.failed,
        "images_per_second": round(summary.rows * share / seconds, 2),
        "seconds_per_shard": round(seconds / shards, 4),
        "recorded_per_shard": round((seconds + late) / shards, 4),
        "work_per_shard": round(summary.stages["wall"] / summary.shards, 4),
        "core_seconds_per_shard": round(cpu / shards, 4),
        "server_core_seconds_per_shard": round(server_cpu / shards, 4) if servers else None,
        "requests_per_shard": {
            name: round(count / shards, 3)
            for name, count in asked.most_common()
            if count > 0.01 * shards
        },
        "megabytes": memory, "server_megabytes": server_memory if servers else None,
        "states": states, "recorded_after": round(late, 1),
        "complaints": complaints,
    }  # fmt: skip


def _states(flow_run: str) -> dict[str, int]:
    """How many of the run's shards the server has in each state."""
    from prefect.settings import PREFECT_API_URL

    states = {}
    for state in ("COMPLETED", "RUNNING", "PENDING", "FAILED", "CRASHED"):
        wanted = {
            "flow_runs": {"id": {"any_": [flow_run]}},
            "task_runs": {"name": {"like_": "shard "}, "state": {"type": {"any_": [state]}}},
        }
        answer = httpx.post(f"{PREFECT_API_URL.value()}/task_runs/count", json=wanted, timeout=60)
        states[state] = answer.raise_for_status().json()
    return states


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--shard-size", type=int, default=1)
    parser.add_argument("--size", type=int, default=16, help="of the photos, pixels")
    parser.add_argument("--pack", choices=["tiny", "shipped"], default="tiny")
    parser.add_argument("--workers", default="1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="restyle-scale-", ignore_cleanup_errors=True) as folder:
        show({"shard_size": options.shard_size, "workers": options.workers}
             | run(_job(Path(folder), options)))  # fmt: skip


def _job(folder: Path, options: argparse.Namespace) -> Job:
    os.environ |= {
        "PREFECT_HOME": str(folder / "prefect"), "XDG_CACHE_HOME": str(folder / "cache"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }  # fmt: skip
    photos = write_linked_photos(folder, options.shards * options.shard_size, options.size)
    pack = str(folder / "tiny.safetensors") if options.pack == "tiny" else ""
    if pack:
        # Not here: this process is to be as large as one that runs a flow, which has no torch.
        subprocess.run([sys.executable, "-c", MAKE_PACK, pack], check=True)
    return Job(
        source=str(photos), out=str(folder / "out"), style="wave", size=str(options.size),
        pack=pack, shard_size=options.shard_size,
        workers=options.workers if options.workers == "auto" else int(options.workers),
    )  # fmt: skip


if __name__ == "__main__":
    main()
