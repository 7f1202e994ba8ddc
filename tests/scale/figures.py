"""What parts of the page measure alike: time, memory, manifests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.processes import memory

# Rows of a manifest that are made at a time.
CHUNK = 100_000


def megabytes(what: str = "VmRSS", pid: int | str = "self") -> float:
    """Memory of a process now, or with ``VmHWM`` the most that it has had."""
    return round(memory(what, pid) / 1000, 1)


def measured(call: Callable[[], object]) -> dict[str, float]:
    """How long ``call`` takes: ``seconds``, and ``core_seconds`` of all threads of this process.

    The second is what a busy neighbour changes little.
    """
    start, cpu = time.perf_counter(), time.process_time()
    call()
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "core_seconds": round(time.process_time() - cpu, 2),
    }


def write_manifest(path: Path, rows: int, folder: str = "s3://photos") -> Path:
    """A Parquet manifest of images in folders of a thousand; nobody looks for them."""
    schema = pa.schema([pa.field("uri", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, CHUNK):
            numbers = range(first, min(first + CHUNK, rows))
            uris = [f"{folder}/{number // 1000:06d}/{number:09d}.jpg" for number in numbers]
            writer.write_table(pa.table([pa.array(uris)], schema))
    return path


def show(figures: dict[str, Any]) -> None:
    """Print a part's figures for whoever has started it."""
    print(json.dumps(figures, indent=2))
