"""The automation of infra/notify.py on a whole Prefect server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from infra import notify
from tests.pipeline.servers import Answer, serving
from tests.processes import wait_until

ROOT = Path(__file__).parents[2]

EMIT = """
from pipeline.results import Summary
from prefect.events.worker import EventsWorker
from tasks.events import tell_of_failures
summary = Summary("s3://bucket/out", "s3://bucket/out/images", "wave", 100, 93, 7, 0.05, 93, 7)
tell_of_failures(summary, 100)
EventsWorker.drain_all(timeout=10)
"""


@pytest.mark.parametrize("arguments", [[], ["hooks.example.com/a"], ["https://a.org", "more"]])
def test_without_a_url_it_says_what_it_takes(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["notify", *arguments])
    assert notify.main() == 2
    assert "python -m infra.notify https://" in capsys.readouterr().err


@pytest.mark.slow
def test_many_failures_are_posted_to_a_web_hook(whole_prefect: str) -> None:
    posted: list[bytes] = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        posted.append(body)
        return 200, {}, b""

    with serving(answer) as hook:
        environment = os.environ | {"PREFECT_API_URL": whole_prefect}

        def python(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True)

        for _ in range(2):  # the second replaces the first
            python("-m", "infra.notify", f"{hook.url}/hook")
        python("-c", EMIT)
        wait_until(lambda: posted, seconds=60)
    (body,) = posted
    assert json.loads(body) == {
        "text": "restyle: 7 of 100 images failed, restyle.out.s3://bucket/out"
    }
