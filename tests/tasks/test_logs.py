from __future__ import annotations

import json
import logging
import sys
from typing import Any

from tasks.logs import JsonFormatter


def line_of(message: str, *arguments: object, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("pipeline.storage", logging.WARNING, "", 0, message, arguments, None)
    record.__dict__.update(extra)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_is_an_object_with_its_run_and_shard() -> None:
    line = line_of("%d done", 4, flow_run_id="f1", task_run_id="t1", shard="abc", pathname="/home")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING", "logger": "pipeline.storage", "message": "4 done",
        "flow_run_id": "f1", "task_run_id": "t1", "shard": "abc",
    }  # fmt: skip


def test_no_secret_is_in_a_message_or_a_traceback() -> None:
    url = "https://me:Tweety@host/a.jpg?X-Amz-Signature=Tweety"
    try:
        raise OSError(f"cannot read {url}")
    except OSError:
        line = line_of("lost %s", url, exc_info=sys.exc_info())
    assert line["message"] == "lost https://host/a.jpg"
    assert "OSError: cannot read https://host/a.jpg" in line["exception"]
    assert "Tweety" not in str(line)
