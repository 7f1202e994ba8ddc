"""The tasks before and after the shards."""

from __future__ import annotations

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed

from pipeline import speed
from pipeline.errors import RequestError, SystemFault
from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.results import Summary
from pipeline.run import Request, begin, end, prepare
from pipeline.spool import ShardRef
from pipeline.url import redact
from tasks.shards import devices_of


@task(name="plan", task_run_name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_run(job: Job) -> tuple[Request, Plan, list[ShardRef]] | State[Exception]:
    """Check the job, read its manifest and write down what is left to do, in shards.

    Fails where the job or a row of its manifest is wrong, or the storage; in the run's log that is
    a line, where an exception that is raised would be its traceback.
    """
    try:
        request = prepare(job)
        plan, refs = begin(request, devices_of(request.job))
    except (RequestError, SystemFault) as fault:
        failed: State[Exception] = Failed(message=redact(str(fault)), data=fault)
        return failed
    return request, plan, refs


@task(name="finish", task_run_name="finish", cache_policy=NO_CACHE, persist_result=False)
def finish_run(request: Request, summary: Summary) -> None:
    """Clear up, mark the output folder complete if the run succeeded, keep the speed of the run."""
    end(request, summary)
    speed.remember(request.job, summary)
