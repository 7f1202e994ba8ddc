"""infra/dashboard.json shows what tasks/metrics.py tells, all of it and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# In a process of its own, because what it tells goes where the first in a process says.
TELL_ALL = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pipeline.results import Failure, ShardResult
from tasks.metrics import count_shard, show_load
from tasks.progress import Snapshot

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
result = ShardResult("a", seconds={"decode": 1.0, "wall": 2.0})
result.add_failed(Failure("1.jpg", "1.jpg", "input", "decode", "no image"))
count_shard("wave", result)
show_load(Snapshot(1, 0, 1, 1.0, None, {"decode": 1}, {"cuda:0": 1}))
print(reader.get_metrics_data().to_json())
"""

UNITS = {"By": "_bytes", "s": "_seconds", "{image}": ""}


def prometheus_names() -> set[str]:
    """What Prometheus calls the metrics, by the rules of the OpenTelemetry specification."""
    told = subprocess.run(
        [sys.executable, "-c", TELL_ALL], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    names = set()
    for metric in json.loads(told.stdout)["resource_metrics"][0]["scope_metrics"][0]["metrics"]:
        name = metric["name"].replace(".", "_")
        if not name.endswith(UNITS[metric["unit"]]):
            name += UNITS[metric["unit"]]
        if "is_monotonic" in metric["data"]:
            name += "_total"
        if "bucket_counts" in metric["data"]["data_points"][0]:
            name += "_bucket"
        names.add(name)
    return names


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    panels = json.loads((ROOT / "infra/dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert set(re.findall(r"restyle_\w+", " ".join(queries))) == prometheus_names()
