"""The main job as a Prefect flow: plan, one task run for each shard, finish."""

# Annotations are not put off here: a deployment loads this file in a way that leaves Prefect
# nowhere to look their names up.

import queue
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from prefect import Flow, State, flow, get_client, get_run_logger
from prefect.client.schemas.objects import FlowRun
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from pipeline.job import Job
from pipeline.plan import WHY_OUTDATED, Plan
from pipeline.results import ShardResult, Summary
from pipeline.run import Request
from pipeline.spool import ShardRef
from pipeline.text import percent
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
    planned: State[Any] = plan_run(job, return_state=True)
    if planned.is_failed():
        return Failed(message=planned.message, data=planned.result(raise_on_failure=False))
    request: Request
    plan: Plan
    refs: list[ShardRef]
    request, plan, refs = planned.result()
    try:
        summary = Summary.of(request.job, plan)
        logger.info(
            "%s rows: %s done before, %s failed before, %s to do in %s shards",
            *(f"{n:,}" for n in (plan.rows, plan.done, plan.failed, plan.to_do, len(refs))),
        )
        if plan.outdated:
            logger.info("%s to be updated: %s", f"{plan.outdated:,}", WHY_OUTDATED)
        Dispatch(request, plan, refs, summary).run()
        finish_run(request, summary)
    finally:
        request.claim.release()
    publish_summary(request, summary)
    ending, message = (Completed if summary.succeeded else Failed), str(summary)
    if summary.too_many_failed and not summary.stopped:
        message += f": more than {percent(summary.max_failed)} of the rows (--max-failed)"
    return ending(message=message, data=summary)


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


class Dispatch:
    """Gives the shards of a run to workers, and looks after the run meanwhile.

    It stops early if it is no use: then the shards under way are finished, and no others begun.
    """

    def __init__(
        self, request: Request, plan: Plan, refs: list[ShardRef], summary: Summary
    ) -> None:
        self._claim, self._summary = request.claim, summary
        self._left = plan.to_do
        self._tracker = Tracker(plan)
        self._progress = ProgressArtifact(names.artifact_key("progress", request.job.out))
        self._pool = make_pool(request.job, plan.left, len(refs))
        self._waiting = deque(refs)
        self._running = 0
        self._finished: queue.Queue[PrefectFuture[ShardResult]] = queue.Queue()
        self._suspension = Suspension()
        self._degraded = False

    def run(self) -> None:
        """Do all shards."""
        # Workers go on while the server takes its time to answer.
        with ThreadPoolExecutor(1, "talk") as aside:
            talking = self._talk(aside)
            try:
                while self._running or self._waiting:
                    self._submit()
                    with suppress(queue.Empty):
                        self._count(self._finished.get(timeout=LOOK_EVERY))
                    if talking.done():
                        if talking.result():
                            self._waiting.clear()
                        talking = self._talk(aside)
                    self._end_if_stopped()
                    self._look()
            finally:
                self._summary.seconds = self._tracker.seconds
                self._pool.close()
        self._look()
        self._show_progress(last=True)
        self._suspension.end()

    def _submit(self) -> None:
        while self._waiting and self._running < TASKS_PER_WORKER * self._pool.workers:
            future = stylize_shard.submit(self._waiting.popleft(), self._pool, self._tracker)
            future.add_done_callback(self._finished.put)
            self._running += 1

    def _count(self, future: PrefectFuture[ShardResult]) -> None:
        self._running -= 1
        outcome, summary = future.result(raise_on_failure=False), self._summary
        if isinstance(outcome, ShardResult):
            summary.add(outcome)
            count_shard(summary.style, outcome)
            if summary.hopeless:
                summary.stopped = summary.stopped or (
                    f"more than {percent(summary.max_failed)} of the rows failed (--max-failed)"
                )
        else:
            summary.stopped = summary.stopped or str(outcome) or type(outcome).__name__
        if not self._degraded and is_degraded(summary, self._left):
            self._degraded = True
            tell_of_failures(summary, self._left)

    def _talk(self, aside: ThreadPoolExecutor) -> Future[bool]:
        """Tell the server how far the run is, and ask whether it is to be suspended."""

        def talk() -> bool:
            self._show_progress()
            return self._suspension.asked()

        return aside.submit(copy_context().run, talk)

    def _end_if_stopped(self) -> None:
        if self._claim.lost and not self._summary.stopped:
            self._summary.stopped = self._claim.lost
            self._pool.close()  # the other run may have cut its shards elsewhere
        if self._summary.stopped:
            self._waiting.clear()
            self._pool.end()

    def _look(self) -> None:
        snapshot = self._tracker.snapshot()
        watcher.get()(snapshot)
        show_load(snapshot)

    def _show_progress(self, last: bool = False) -> None:
        snapshot = self._tracker.snapshot()
        self._progress.show(snapshot.percent, str(snapshot), last)
