"""How fast this machine was the last time, so that a plan can say how long it will take."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.devices import cpu_count, devices_for, kind_of, pace_of, pixels_of
from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.results import Summary

# Pixels a second where nothing has been measured yet: of a core, of a GPU.
GUESS = {"cpu": 4e6, "amx": 16e6, "cuda": 200e6}

# Images a second that a core fetches, decodes, encodes and puts, however small they are.
IMAGES_OF_CORE = 1000

# Shorter runs measure the start of the workers, for which they may have to compile first.
MEASURED_SECONDS = 30


def remember(job: Job, summary: Summary) -> None:
    """Keep the speed of a run for the next plan on this machine."""
    told_little = summary.updated > summary.new_done or not summary.output_pixels
    if summary.seconds < MEASURED_SECONDS or told_little:
        return
    key = _key(job, devices_for(job, summary.new_done + summary.new_failed))
    known = _known() | {key: summary.output_pixels / summary.seconds}
    with suppress(OSError):  # no home, no memory
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps(known))


def estimate(job: Job, plan: Plan) -> tuple[float | None, bool]:
    """Seconds that a plan will take, None if nothing tells; and whether that was measured here."""
    known_sizes = plan.to_do - plan.unknown_sizes
    if not job.pixels and not known_sizes:
        return (None, False) if plan.to_do else (0.0, True)
    mean_bytes = plan.left_bytes / known_sizes if known_sizes else None
    pixels = plan.to_do * pixels_of(job, mean_bytes)
    devices = devices_for(job, plan.to_do)
    known = _known().get(_key(job, devices))
    if job.runner == "ray" and known is None:
        return None, False
    # Workers share all cores, however many there are of them.
    together = cpu_count() if kind_of(devices) == "cpu" else len(set(devices))
    rate = known or GUESS[pace_of(job, devices)] * together
    seconds = pixels / rate
    if job.runner == "local":
        seconds = max(seconds, plan.to_do / (IMAGES_OF_CORE * cpu_count()))
    return seconds, known is not None


def _key(job: Job, devices: Sequence[str]) -> str:
    size = "native" if job.pixels is None else "fixed"
    workers = job.workers if job.runner == "ray" else len(devices)
    return f"{job.runner} {pace_of(job, devices)} {size} {job.pack or 'shipped'} {workers}"


def _known() -> dict[str, float]:
    try:
        return dict(json.loads(_file().read_text()))
    except (OSError, ValueError):
        return {}


def _file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "restyle" / "speed.json"
