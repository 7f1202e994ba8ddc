"""What the runs of a job before this one came to, as the Prefect API tells."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime, FlowRunFilterTags
from prefect.client.schemas.sorting import FlowRunSort

from tasks.names import job_tag

SHOWN = 14  # two weeks of nights


@dataclass(frozen=True)
class PastRun:
    """A run that has ended: when (UTC), how long it took, what came of it."""

    when: str
    seconds: float
    outcome: str


def runs_before(out: str) -> list[PastRun]:
    """The last runs that wrote to a folder and have ended, newest first."""
    ended = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[job_tag(out)]), end_time=FlowRunFilterEndTime(is_null_=False)
    )
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=ended, sort=FlowRunSort.END_TIME_DESC, limit=SHOWN
        )
    return [
        PastRun(
            f"{run.end_time:%Y-%m-%d %H:%M}",
            run.total_run_time.total_seconds(),
            (run.state and run.state.message) or run.state_name or "",
        )
        for run in runs
    ]
