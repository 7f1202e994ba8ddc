"""The task that does one shard."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from pipeline.devices import devices_for
from pipeline.errors import RequestError, SystemFault
from pipeline.job import Job
from pipeline.results import ShardResult
from pipeline.spool import ShardRef
from pipeline.worker import Progress
from pipeline.workers import RunEnding, WorkerPool
from tasks.events import tell_of_shard
from tasks.progress import Tracker

if TYPE_CHECKING:
    from pipeline.cluster import RayPool


def join_cluster() -> None:
    """Join the Ray cluster.

    Raises:
        RequestError: there is none, or Ray is not installed.
    """
    try:
        from pipeline.cluster import connect
    except ImportError as error:
        raise RequestError("--runner ray: pip install 'restyle[ray]' first") from error
    connect()


def devices_of(job: Job, rows: int = sys.maxsize) -> list[str]:
    """The device of each worker for a job with so many rows left."""
    if job.runner == "local":
        return devices_for(job, rows)
    from pipeline.cluster import cluster_devices

    return cluster_devices(job)


def make_pool(job: Job, rows: int, shards: int) -> WorkerPool | RayPool:
    """The workers for a job with so many rows left, in so many shards."""
    devices = devices_of(job, rows)[: max(1, shards)]
    if job.runner == "local":
        return WorkerPool(job, devices)
    from pipeline.cluster import RayPool

    return RayPool(job, devices)


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to try a shard again: not if the run ends, or what is broken is so for all."""
    fault = state.result(raise_on_failure=False)
    return not isinstance(fault, SystemFault | RunEnding)


@task(
    name="shard",
    task_run_name="shard {ref.number}, {ref.rows} images",
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_jitter_factor=0.3,
    retry_condition_fn=may_pass,
    # The ledger decides what is done; a cached answer would not know of deleted results.
    cache_policy=NO_CACHE,
    persist_result=False,
)
def stylize_shard(ref: ShardRef, pool: WorkerPool | RayPool, tracker: Tracker) -> ShardResult:
    """Stylize the images of one shard in a worker process and commit them to the ledger.

    Raises:
        ShardLost: it was not finished, and can be tried again.
        SystemFault: something that every shard needs is broken.
    """
    logger = get_run_logger()

    def on_message(message: Progress | logging.LogRecord) -> None:
        if isinstance(message, Progress):
            tracker.update(ref.key, message)
        else:
            logger.log(message.levelno, message.getMessage(), extra={"shard": ref.key})

    try:
        result = pool.run(ref, on_message)
    except BaseException:
        tracker.lose(ref.key)
        raise
    tracker.finish(result)
    tell_of_shard(ref, result)
    return result
