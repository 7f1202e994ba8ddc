"""The main job as a Prefect flow: plan, one task run for each shard, finish."""

# Annotations are not put off here: a deployment loads this file in a way that leaves Prefect
# nowhere to look their names up.

import queue
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from prefect import Flow, State, flow, get_client, get_run_logger
from prefect.client.schemas.objects import FlowRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.results import ShardResult, Summary
from pipeline.run import Request
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
    _tag_run(names.tags_of(job))
    if job.runner == "ray":
        join_cluster()
    request, plan, refs = plan_run(job)
    try:
        summary = Summary.of(request.job, plan)
        logger.info(
            "%s rows: %s done before, %s failed before, %s to do in %s shards",
            *(f"{n:,}" for n in (plan.rows, plan.done, plan.failed, plan.left, len(refs))),
        )
        _do_shards(request, plan, refs, summary)
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


def _tag_run(more: list[str]) -> None:
    """Tag this flow run, and not its task runs.

    A task run with a tag asks the server for leave to begin, in case the tag has a limit: every
    five seconds all workers wait for its answer, and a busy server takes seconds to give it.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=sorted({*flow_run.tags, *more}))


def _do_shards(request: Request, plan: Plan, refs: list[ShardRef], summary: Summary) -> None:
    """Do all shards; stop early if it is no use."""
    tracker = Tracker(plan)
    progress = ProgressArtifact(names.artifact_key("progress", request.job.out))
    pool = make_pool(request.job, plan.left, len(refs))
    finished: queue.Queue[PrefectFuture[ShardResult]] = queue.Queue()
    waiting = iter(refs)
    suspension = Suspension()

    def submit(ref: ShardRef) -> None:
        stylize_shard.submit(ref, pool, tracker).add_done_callback(finished.put)

    def look() -> None:
        snapshot = tracker.snapshot()
        watcher.get()(snapshot)
        show_load(snapshot)

    def show_progress(last: bool = False) -> None:
        snapshot = tracker.snapshot()
        progress.show(snapshot.percent, str(snapshot), last)

    def talk() -> bool:
        show_progress()
        return suspension.asked()

    running = 0
    degraded = False
    following = next(waiting, None)
    # Workers go on while the server takes its time to answer.
    with ThreadPoolExecutor(1, "talk") as aside:
        talking = aside.submit(copy_context().run, talk)
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
                if talking.done():
                    if talking.result():
                        following = None
                    talking = aside.submit(copy_context().run, talk)
                if request.claim.lost and not summary.stopped:
                    summary.stopped = request.claim.lost
                    pool.close()  # the other run may have cut its shards elsewhere
                if summary.stopped:
                    following = None
                    pool.end()
                look()
        finally:
            summary.seconds = tracker.seconds
            pool.close()
    look()
    show_progress(last=True)
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
