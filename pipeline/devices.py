"""Which devices a run uses, and how many workers each."""

from __future__ import annotations

import os
import subprocess
from glob import glob

from pipeline.job import Job

# Of a GPU's memory for each worker, in MiB: CUDA's own and that of a batch.
WORKER_MEMORY = 3072


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def devices_for(job: Job, shards: int) -> list[str]:
    """The device of each worker, no more of them than there are shards.

    One worker a core, on a GPU as well: a process decodes and encodes about as fast as one core
    can, however many threads it has, and what a GPU does meanwhile takes less time than that.
    """
    gpus = 0 if job.device == "cpu" else _gpu_count()
    if job.device.startswith("cuda:"):
        names = [job.device]
    else:
        names = [f"cuda:{index}" for index in range(gpus)] or [job.device]
    if job.workers != "auto":
        workers = job.workers
    elif names[0].startswith("cuda:"):
        workers = len(names) * max(1, min(cpu_count() // len(names), _room_on_gpu()))
    else:
        workers = cpu_count()
    return [names[index % len(names)] for index in range(max(1, min(workers, shards)))]


def _gpu_count() -> int:
    """GPUs that this process may use, without the seconds it takes to ask torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return machine_gpus()


def machine_gpus() -> int:
    """GPUs of this machine, whoever may use them."""
    return len(glob("/dev/nvidia[0-9]*"))


def _room_on_gpu() -> int:
    """Workers for which the smallest GPU has room; 1 where that cannot be learnt."""
    command = [
        "nvidia-smi",
        "--query-gpu=memory.total,compute_mode",
        "--format=csv,noheader,nounits",
    ]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        gpus = [line.split(", ") for line in told.stdout.splitlines()]
        shared = all(mode == "Default" for _, mode in gpus)
        return min(int(memory) for memory, _ in gpus) // WORKER_MEMORY if shared else 1
    except (OSError, subprocess.SubprocessError, ValueError):
        return 1
