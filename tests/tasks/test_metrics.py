from __future__ import annotations

import logging
import sys

import pytest
from opentelemetry import metrics

from pipeline.results import ShardResult
from tasks.metrics import count_shard, send_metrics


def test_without_an_endpoint_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    before = metrics.get_meter_provider()
    send_metrics("run")
    count_shard("wave", ShardResult("a", done=4))
    assert metrics.get_meter_provider() is before


def test_without_the_extra_a_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    monkeypatch.setattr("tasks.metrics.get_run_logger", logging.getLogger)
    send_metrics("run")
    assert "pip install 'restyle[metrics]'" in caplog.text
