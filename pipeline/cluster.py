"""The workers of a Ray cluster: a shard is a task of Ray's, done on whichever node has room.

References to shards go out; progress, log records and results come back; images never pass
through the process that asks. On a node the Ray worker keeps a WorkerPool of one worker for its
job, so what holds on one machine holds there: the network is loaded once, a decoder that hangs or
crashes costs its image and not the shard.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.devices import cpu_count, machine_gpus
from pipeline.errors import RequestError, ShardLost, SystemFault
from pipeline.job import Job
from pipeline.results import ShardResult
from pipeline.spool import ShardRef
from pipeline.url import redact
from pipeline.worker import Message
from pipeline.workers import RunEnding, WorkerPool

log = logging.getLogger(__name__)

Told = Message | ShardResult | ShardLost | SystemFault


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or the one that runs on this machine.

    Raises:
        RequestError: there is none.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "auto"),
            log_to_driver=False,  # what matters comes with the messages
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"--runner ray: no Ray cluster can be joined ({error}); start one with ray start "
            "--head, or set RAY_ADDRESS"
        ) from error


def cluster_devices(job: Job) -> list[str]:
    """The device of each worker for which the cluster that connect() has joined has room."""
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = cluster.get("GPU", 0)
    if job.device.startswith("cuda") or (job.device == "auto" and gpus):
        device, room = "cuda", int(gpus / job.gpus_per_worker)
        if not room:
            log.warning("the cluster has no room on a GPU; shards wait until it has")
    else:
        device, room = "cpu", int(cluster.get("CPU", 1))
    return [device] * max(1, room if job.workers == "auto" else job.workers)


class RayPool:
    """A WorkerPool on all nodes of the cluster that connect() has joined.

    Args:
        job: with its places in full; every node must be able to reach them.
        devices: one for each worker, as cluster_devices() gives them.
    """

    def __init__(self, job: Job, devices: Sequence[str]) -> None:
        gpus = job.gpus_per_worker if devices[0] == "cuda" else 0.0
        self._job = job.model_copy(update={"device": devices[0]})
        self.workers = len(devices)
        self._task: Any = ray.remote(
            num_cpus=1, num_gpus=gpus, max_calls=0, max_retries=0, num_returns="streaming"
        )(do_shard)
        self._free = threading.Semaphore(self.workers)
        self._running: set[Any] = set()
        self._ending = False

    def run(self, ref: ShardRef, on_message: Callable[[Message], None]) -> ShardResult:
        """Do a shard on a node that has room, and wait for it.

        Args:
            on_message: is given the worker's progress and log records, in this thread.

        Raises:
            ShardLost: it was not finished, as its node or its worker has died.
            SystemFault: something that every shard needs is broken.
        """
        with self._free:
            if self._ending:
                raise RunEnding
            answers = self._task.remote(self._job, ref)
            self._running.add(answers)
            try:
                for answer in answers:
                    told: Told = ray.get(answer)
                    if isinstance(told, ShardResult):
                        return told
                    if isinstance(told, Exception):
                        raise told
                    on_message(told)
            except RayError as error:
                if self._ending:
                    raise RunEnding from None
                why = f"{type(error).__name__}: {error}"
                raise ShardLost(f"shard {ref.number}: {redact(why)}") from None
            finally:
                self._running.discard(answers)
        raise ShardLost(f"shard {ref.number}: its task ended without a result")

    def end(self) -> None:
        """Begin no shard any more; those under way go on."""
        self._ending = True

    def close(self) -> None:
        """Drop what is under way, and leave the cluster."""
        self._ending = True
        for answers in list(self._running):
            ray.cancel(answers, force=True)
        ray.shutdown()


def do_shard(job: Job, ref: ShardRef) -> Iterator[Told]:
    """On a node: do a shard; all that its worker tells, at last its result or why there is none."""
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    pool = _pool(job)

    def work() -> None:
        try:
            told.put(pool.run(ref, told.put))
        except (ShardLost, SystemFault) as error:
            told.put(error)
        except Exception as error:
            told.put(ShardLost(f"shard {ref.number}: {redact(repr(error))}"))

    threading.Thread(target=work, daemon=True).start()
    while True:
        answer = told.get()
        yield answer
        if isinstance(answer, ShardResult | Exception):
            return


@cache
def _pool(job: Job) -> WorkerPool:
    """The worker of this Ray worker, with its share of the node's cores."""
    gpus = machine_gpus()
    share = job.gpus_per_worker / gpus if job.device == "cuda" and gpus else 1 / cpu_count()
    return WorkerPool(job, [job.device], threads=max(1, int(cpu_count() * share)))
