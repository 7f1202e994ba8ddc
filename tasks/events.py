"""What other parts of Prefect can react to: see infra/notify.py."""

from __future__ import annotations

from prefect.events import emit_event

from pipeline.results import ShardResult, Summary
from pipeline.spool import ShardRef
from pipeline.url import redact_url

SHARD_COMMITTED = "restyle.shard.committed"
RUN_DEGRADED = "restyle.run.degraded"

# Share of a run's rows; when more have failed it is told at once.
DEGRADED = 0.02


def tell_of_shard(ref: ShardRef, result: ShardResult) -> None:
    """A shard is in the ledger. Prefect adds which run, flow and deployment it was."""
    emit_event(
        SHARD_COMMITTED,
        resource={"prefect.resource.id": f"restyle.shard.{ref.key}"},
        payload={
            "number": ref.number, "rows": ref.rows, "done": result.done, "failed": result.failed,
            "seconds": round(result.wall, 1),
        },
    )  # fmt: skip


def is_degraded(summary: Summary, rows: int) -> bool:
    """Whether more of the ``rows`` that a run has to do have failed than can be by chance."""
    return summary.new_failed > DEGRADED * rows


def tell_of_failures(summary: Summary, rows: int) -> None:
    """A run is_degraded()."""
    emit_event(
        RUN_DEGRADED,
        resource={"prefect.resource.id": f"restyle.out.{redact_url(summary.out)}"},
        payload={
            "failed": summary.new_failed, "of": rows, "style": summary.style,
            "reasons": dict(summary.reasons.most_common(5)),
        },
    )  # fmt: skip
