"""What a run tells a collector of metrics and, as JSON, a collector of logs."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from tests.conftest import write_photos
from tests.pipeline.runs import ledger_of
from tests.pipeline.servers import Answer, serving
from tests.processes import RESTYLE

ROOT = Path(__file__).parents[2]
CANARY = "Tweety8675309"

pytestmark = pytest.mark.slow


@dataclass
class Told:
    """What a run told, and the rows of its ledger; ``posts``: paths and headers of requests."""

    posts: list[tuple[str, Mapping[str, str]]]
    metrics: ExportMetricsServiceRequest
    stderr: str
    rows: list[dict[str, Any]]

    @property
    def resource(self) -> dict[str, str]:
        (one,) = self.metrics.resource_metrics
        return {pair.key: pair.value.string_value for pair in one.resource.attributes}

    def points(self, name: str) -> dict[tuple[str, ...], Any]:
        """A metric's points, by their attributes' values in order of the attributes' names."""
        (scope,) = self.metrics.resource_metrics[0].scope_metrics
        (metric,) = [one for one in scope.metrics if one.name == name]
        points = getattr(metric, metric.WhichOneof("data")).data_points
        return {
            tuple(
                a.value.string_value for a in sorted(point.attributes, key=lambda a: a.key)
            ): point
            for point in points
        }

    def counts(self, name: str) -> dict[tuple[str, ...], int]:
        return {key: point.as_int for key, point in self.points(name).items()}

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def told(prefect: str, pack: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("metrics")
    photos = write_photos(folder, 8)
    (photos / "bad.jpg").write_bytes(b"no image")
    posts: list[tuple[str, Mapping[str, str]]] = []
    bodies: list[bytes] = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if request.command == "POST":
            posts.append((request.path, dict(request.headers)))
            bodies.append(body)
            return 200, {}, b""
        return 404, {}, b""

    with serving(answer) as server:
        names = [
            *(f"{n:03d}.jpg" for n in range(8)),
            "bad.jpg",
            f"{server.url}/gone.jpg?sig={CANARY}",
        ]
        (folder / "rows.txt").write_text("\n".join(names))
        ended = subprocess.run(
            [*RESTYLE, "run", str(folder / "rows.txt"), "--out", str(folder / "out"),
             "--style", "red", "--pack", pack, "--size", "64", "--device", "cpu", "--workers", "1",
             "--shard-size", "4", "--max-failed", "1", "--allow-scheme", "http",
             "--allow-private"],
            cwd=ROOT, text=True, capture_output=True, check=False,
            env=os.environ | {
                "PREFECT_API_URL": prefect,
                "PREFECT_LOGGING_SETTINGS_PATH": "infra/logging.yml",
                "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
                "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={CANARY}",
            },
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "8 of 10 stylized, 2 failed" in ended.stdout
    rows = ledger_of(folder / "out").to_pylist()
    return Told(posts, ExportMetricsServiceRequest.FromString(bodies[-1]), ended.stderr, rows)


def test_metrics_are_sent_to_where_the_environment_says(told: Told) -> None:
    for path, headers in told.posts:
        assert path == "/v1/metrics"
        assert headers["authorization"] == CANARY


def test_the_metrics_of_a_run_add_up_to_its_ledger(told: Told) -> None:
    done = [row for row in told.rows if row["status"] == "done"]
    failed = [row for row in told.rows if row["status"] == "failed"]
    assert told.counts("restyle.images") == {("done", "red"): 8, ("failed", "red"): 2}
    assert (len(done), len(failed)) == (8, 2)
    assert told.counts("restyle.bytes") == {
        ("read",): sum(row["source_size"] for row in done),
        ("written",): sum(row["output_bytes"] for row in done),
    }
    assert told.counts("restyle.failures") == Counter(
        (row["error_class"], row["error_stage"]) for row in failed
    )
    shards = told.points("restyle.shard.duration")[()]
    assert shards.count == len({row["shard"] for row in told.rows}) == 3
    times = told.points("restyle.stage.time")
    assert set(times) == {("fetch",), ("decode",), ("stylize",), ("encode",), ("put",)}
    assert all(point.as_double > 0 for point in times.values())
    assert sum(point.as_double for point in times.values()) < 10 * shards.sum


def test_logs_are_lines_of_json_with_run_and_shard(told: Told) -> None:
    run = told.resource["service.instance.id"]
    assert told.resource["service.name"] == "restyle"
    of_runs = [line for line in told.lines if line["logger"].endswith("_runs")]
    assert len(of_runs) > 10
    assert {line["flow_run_id"] for line in of_runs} == {run}
    from_workers = [line for line in told.lines if "busy: " in line["message"]]
    assert {line["shard"] for line in from_workers} == {row["shard"] for row in told.rows}
    for line in from_workers:
        assert line["task_run_name"].startswith("shard ")
        assert line["level"] == "INFO"
        assert line["time"]


def test_no_secret_is_in_logs_or_metrics(told: Told) -> None:
    assert CANARY not in told.stderr
    assert CANARY not in str(told.metrics)
