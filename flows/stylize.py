"""The main job as a Prefect flow: plan, one task run for each shard, finish."""

# Annotations are not put off here: a deployment loads this file in a way that leaves Prefect
# nowhere to look their names up.

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prefect import Flow, State, flow, get_client, get_run_logger, tags
from prefect.client.schemas.objects import FlowRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.results import ShardResult, Summary
from pipeline.spool import ShardRef
from tasks import names
from tasks.artifacts import ProgressArtifact, publish_summary
from tasks.events import is_degraded, tell_of_failures
from tasks.metrics import count_shard, send_metrics, show_load
from tasks.prepare import finish_run, plan_run
from tasks.progress import Tracker, watcher
from tasks.shards import join_cluster, make_pool, stylize_shard
from tasks.suspend import Suspension

# Seconds between two looks at how far the shards are.
LOOK_EVERY = 0.5

# Task runs under way for each worker: one that it does and one that waits, so that the worker
# need not wait while Prefect writes down that a shard has ended.
TASKS_PER_WORKER = 2


def run_name() -> str:
    """What the UI calls a run."""
    job = flow_run.parameters["job"]
    return names.run_name(job if isinstance(job, Job) else Job.model_validate(job))


@flow(name="stylize", flow_run_name=run_name, persist_result=False)
def stylize(job: Job) -> State[Summary]:
    """Stylize a collection of images; what is done already is not done again."""
    logger = get_run_logger()
    send_metrics(flow_run.id)
    with _tagged(names.tags_of(job)):
        if job.runner == "ray":
            join_cluster()
        request, plan, refs = plan_run(job)
        try:
            summary = Summary.of(request.job, plan)
            logger.info(
                "%s rows: %s done before, %s failed before, %s to do in %s shards",
                *(f"{n:,}" for n in (plan.rows, plan.done, plan.failed, plan.left, len(refs))),
            )
            _do_shards(request.job, plan, refs, summary)
            finish_run(request, summary)
        finally:
            request.claim.release()
    publish_summary(request, summary)
    ending = Completed if summary.succeeded else Failed
    return ending(message=str(summary), data=summary)


@stylize.on_crashed
def show_as_cancelled(
    flow: Flow[[Job], State[Summary]], flow_run: FlowRun, state: State[Any]
) -> None:
    """A run that was stopped by a signal has not crashed."""
    if state.message and state.message.endswith("signal."):
        with get_client(sync_client=True) as client:
            cancelled: State[Any] = Cancelled(message="stopped; the next run carries on")
            client.set_flow_run_state(flow_run.id, cancelled, force=True)


@contextmanager
def _tagged(more: list[str]) -> Iterator[None]:
    """Tags this flow run, and the task runs that are made inside."""
    with get_client(sync_client=True) as client, tags(*more) as all_tags:
        client.update_flow_run(flow_run.id, tags=sorted({*flow_run.tags, *all_tags}))
        yield


def _do_shards(job: Job, plan: Plan, refs: list[ShardRef], summary: Summary) -> None:
    """Do all shards; stop early if it is no use."""
    tracker = Tracker(plan)
    progress = ProgressArtifact(names.artifact_key("progress", job.out))
    pool = make_pool(job, len(refs))
    finished: queue.Queue[PrefectFuture[ShardResult]] = queue.Queue()
    waiting = iter(refs)

    def submit(ref: ShardRef) -> None:
        stylize_shard.submit(ref, pool, tracker).add_done_callback(finished.put)

    def look(last: bool = False) -> None:
        snapshot = tracker.snapshot()
        watcher.get()(snapshot)
        show_load(snapshot)
        progress.show(snapshot.percent, str(snapshot), last)

    suspension = Suspension()
    running = 0
    degraded = False
    following = next(waiting, None)
    try:
        while running or following:
            while following and running < TASKS_PER_WORKER * pool.workers:
                submit(following)
                running += 1
                following = next(waiting, None)
            with suppress(queue.Empty):
                outcome = finished.get(timeout=LOOK_EVERY).result(raise_on_failure=False)
                running -= 1
                _count(outcome, summary)
                if not degraded and is_degraded(summary, plan.left):
                    degraded = True
                    tell_of_failures(summary, plan.left)
            if summary.stopped or suspension.asked():
                following = None
            look()
    finally:
        summary.seconds = tracker.seconds
        pool.close()
    look(last=True)
    suspension.end()


def _count(outcome: ShardResult | Exception, summary: Summary) -> None:
    if isinstance(outcome, ShardResult):
        summary.add(outcome)
        count_shard(summary.style, outcome)
        if summary.hopeless:
            summary.stopped = summary.stopped or (
                f"more than {summary.max_failed:.0%} of the rows failed (--max-failed)"
            )
    else:
        summary.stopped = summary.stopped or str(outcome) or type(outcome).__name__
