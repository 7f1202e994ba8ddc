"""Which devices a run uses, and how many workers each."""

from __future__ import annotations

import logging
import math
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from glob import glob
from pathlib import Path

from pipeline.job import Job

# Memory for each worker, in MiB: what it takes with default settings, and half as much again. On a
# GPU that of the GPU, too: CUDA's own and that of a batch.
WORKER_MEMORY = {"cpu": 1536, "cuda": 3072}

# Rows of a shard, of 256x256 pixels each: several seconds of work, beside which the requests for
# the shard itself are few, and which a worker that is killed may lose. Of larger images fewer.
SHARD_ROWS = {"cpu": 512, "amx": 2048, "cuda": 2048}
FEWEST_ROWS = 8

# Pixels of a worker, at least: for fewer it does not pay to start one, which takes some seconds.
LEAST_OF_WORKER = {"cpu": 256 * 256**2, "cuda": 1024 * 256**2}

# What is taken for the pixels of a photo for each byte of its file, and where nothing tells.
PIXELS_PER_BYTE = 4
NATIVE_PIXELS = 1024**2

# Where a control group says how much of the processors and memory it may have, version 2 and 1.
QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


# Where Linux runs in Windows a GPU has this file and no other.
GPU_OF_WINDOWS = "/dev/dxg"

log = logging.getLogger(__name__)


def cpu_count() -> int:
    """Cores that this process may use, or as many as its container's share is worth."""
    cores = len(os.sched_getaffinity(0))
    for files in QUOTAS:
        with suppress(OSError, ValueError):  # another version, or no limit
            quota, period = (int(n) for file in files for n in Path(file).read_text().split())
            if quota > 0:
                cores = min(cores, math.ceil(quota / period))
    return cores


def memory_size() -> int:
    """MiB of memory that this machine has, or its container."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in LIMITS:
        with suppress(OSError, ValueError):  # another version, or no limit
            size = min(size, int(Path(file).read_text()))
    return size >> 20


def devices_for(job: Job, rows: int) -> list[str]:
    """The device of each worker, no more of them than pay for so many rows.

    One worker a core, as far as there is memory for them, and on a GPU as well: beside a network
    that takes no time, a process with two threads for each stage did 750 images a second, two
    with one thread each 1,500, on the same two cores.
    """
    gpus = 0 if job.device == "cpu" else gpu_count()
    if job.device.startswith("cuda:"):
        names = [job.device]
    else:
        names = [f"cuda:{index}" for index in range(gpus)] or [job.device]
    if job.workers != "auto":
        workers = min(job.workers, rows)
    else:
        kind = kind_of(names)
        workers = min(cpu_count(), memory_size() // WORKER_MEMORY[kind])
        if kind == "cuda":
            workers = len(names) * max(1, min(workers // len(names), _room_on_gpu()))
        workers = min(workers, int(rows * pixels_of(job) / LEAST_OF_WORKER[kind]))
    return [names[index % len(names)] for index in range(max(1, workers))]


def shard_rows(job: Job, devices: Sequence[str], file_bytes: float | None = None) -> int:
    """How many rows a shard has at most, on these devices.

    Args:
        file_bytes: of a photo's file, on average, if that is known.
    """
    if job.shard_size != "auto":
        return job.shard_size
    most = SHARD_ROWS[pace_of(job, devices)]
    return min(most, max(FEWEST_ROWS, int(most * 256**2 / pixels_of(job, file_bytes))))


def pixels_of(job: Job, file_bytes: float | None = None) -> float:
    """Pixels of a result, on average, as far as can be told without its photo."""
    if job.pixels:
        return math.prod(job.pixels)
    return file_bytes * PIXELS_PER_BYTE if file_bytes else NATIVE_PIXELS


def kind_of(devices: Sequence[str]) -> str:
    """What they are: cuda or cpu."""
    return "cuda" if devices[0].startswith("cuda") else "cpu"


def pace_of(job: Job, devices: Sequence[str]) -> str:
    """How quick they are: cuda, or cpu, or amx of processors that are several times as quick."""
    kind = kind_of(devices)
    return "amx" if kind == "cpu" and job.precision in ("auto", "bf16") and _has_amx() else kind


def check_device(job: Job) -> None:
    """See whether the GPU that a job asks for is in this machine.

    Raises:
        RequestError: it is not.
    """
    if job.runner == "local" and job.device.startswith("cuda"):
        from pipeline.stylizer import pick_device  # takes seconds to import

        pick_device(job.device)


@cache
def _has_amx() -> bool:
    """Whether the processor has Intel's unit for matrices of bfloat16."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@cache
def gpu_count() -> int:
    """GPUs that this process may use."""
    if not machine_gpus() and not os.path.exists(GPU_OF_WINDOWS):
        return 0
    import torch  # takes seconds; but only torch knows which driver and GPUs it can use

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    log.warning(
        "this machine has a GPU, but torch cannot use it: its driver or torch's build do not fit"
    )
    return 0


def machine_gpus() -> int:
    """GPUs of this machine, whoever may use them."""
    return len(glob("/dev/nvidia[0-9]*"))


@cache
def _room_on_gpu() -> int:
    """Workers for which the fullest GPU has room; 1 where that cannot be learnt."""
    asked = "--query-gpu=memory.free,compute_mode"
    command = ["nvidia-smi", asked, "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        gpus = [line.split(", ") for line in told.stdout.splitlines()]
        shared = all(mode == "Default" for _, mode in gpus)
        return min(int(memory) for memory, _ in gpus) // WORKER_MEMORY["cuda"] if shared else 1
    except (OSError, subprocess.SubprocessError, ValueError):
        return 1
