"""What a run tells OpenTelemetry; see docs/metrics.md. Nobody listens unless send_metrics() can."""

from __future__ import annotations

import os

from opentelemetry import metrics
from prefect import get_run_logger

from pipeline.results import ShardResult
from tasks.progress import Snapshot

# Seconds, between which shards are counted: most take from some seconds to some minutes.
SHARD_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)

_meter = metrics.get_meter("restyle")
_images = _meter.create_counter("restyle.images", "{image}", "Images in the ledger.")
_bytes = _meter.create_counter("restyle.bytes", "By", "Of images that got done.")
_failures = _meter.create_counter("restyle.failures", "{image}", "Images that failed.")
_stage_time = _meter.create_counter("restyle.stage.time", "s", "Busy, over all threads.")
_shard_duration = _meter.create_histogram(
    "restyle.shard.duration", "s", "In a worker.", explicit_bucket_boundaries_advisory=SHARD_SECONDS
)
_queue_depth = _meter.create_gauge(
    "restyle.queue.depth", "{image}", "Images that wait for a stage or are in it."
)
_gpu_memory = _meter.create_gauge("restyle.gpu.memory", "By", "Held by workers.")


def count_shard(style: str, result: ShardResult) -> None:
    """A shard is in the ledger."""
    for status, images in (("done", result.new_done), ("failed", result.failed)):
        _images.add(images, {"status": status, "style": style})
    _bytes.add(result.source_bytes, {"direction": "read"})
    _bytes.add(result.output_bytes, {"direction": "written"})
    for (error_class, stage), images in result.faults.items():
        _failures.add(images, {"error_class": error_class, "stage": stage})
    for stage, seconds in result.seconds.items():
        if stage == "wall":
            _shard_duration.record(seconds)
        else:
            _stage_time.add(seconds, {"stage": stage})


def show_load(snapshot: Snapshot) -> None:
    """What the workers have in hand now."""
    for stage, images in snapshot.queues.items():
        _queue_depth.set(images, {"stage": stage})
    for device, held in snapshot.gpu_memory.items():
        _gpu_memory.set(held, {"device": device})


def send_metrics(run_id: str) -> None:
    """From now on send metrics to where OTEL_EXPORTER_OTLP_ENDPOINT says, the last ones at exit.

    Args:
        run_id: tells the counts of one run from those of another.
    """
    names = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not any(map(os.environ.get, names)):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    except ImportError:
        get_run_logger().warning("metrics are not sent: pip install 'restyle[metrics]'")
        return
    if isinstance(metrics.get_meter_provider(), MeterProvider):
        return
    ours = Resource.create({"service.name": "restyle", "service.instance.id": run_id})
    resource = ours.merge(OTELResourceDetector().detect())
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider([reader], resource))
