"""Log records as lines of JSON, for those who collect them: infra/logging.yml."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from pipeline.url import redact

# Attributes of records that say where they belong; a record has those that apply to it.
PLACES = ("flow_run_id", "flow_run_name", "task_run_id", "task_run_name", "shard")


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record, with the run and the shard that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without secrets."""
        # Prefect sets up its logging, and so this module, before the rest of it is there.
        from prefect.runtime import flow_run, task_run

        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            "flow_run_id": flow_run.get_id(),
            "task_run_id": task_run.get_id(),
            **{name: getattr(record, name) for name in PLACES if hasattr(record, name)},
        }
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps({name: value for name, value in line.items() if value is not None})
