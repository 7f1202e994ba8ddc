"""A row on its way through the stages of its shard, and what the ledger has of it at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.carried import up_to_date
from pipeline.codec import Pixels
from pipeline.errors import RowError
from pipeline.ledger import LEDGER_SCHEMA, carried_columns, now, row_keys
from pipeline.results import Failure, ShardResult
from pipeline.styles.mix import Mix
from pipeline.url import redact_url

# Ledger rows by id and variant.
Rows = dict[tuple[str, int], dict[str, Any]]


@dataclass
class Item:
    """One row on its way; ``failure`` is the stage that could not do it, and why."""

    index: int
    row: dict[str, Any]
    mix: Mix
    strength: float
    seed: int
    data: bytes = b""  # of the source, then of the result
    pixels: Pixels | None = None  # of the photo, then of the result
    failure: tuple[str, RowError] | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """What tells rows apart."""
        return self.row["id"], self.row["variant"]

    def is_done(self, before: Rows, job_digest: str) -> bool:
        """Whether the ledger has it as done: the same job, source and settings of its own."""
        known = before.get(self.key)
        return (
            known is not None
            and known["status"] == "done"
            and known["job_digest"] == job_digest
            and redact_url(self.row["source_uri"]) == known["source_uri"]
            and all(
                self.row[name] is None or self.row[name] == known[name]
                for name in ("source_size", "source_etag", "strength", "seed")
            )
            and (self.row["style"] is None or str(self.mix) == known["style"])
        )

    def complete(self, before: Rows, shard: str, model_digest: str, job_digest: str) -> None:
        """Make ``record`` its ledger row, when it has been through all stages."""
        known = before.get(self.key, {})
        stage, error = self.failure or (None, None)
        if error:
            self.record = {k: v for k, v in self.record.items() if not k.startswith("output_")}
        self.record = {
            **{name: self.row[name] for name in ("id", "variant", "source_size", "source_etag")},
            **self.record,
            "source_uri": redact_url(self.row["source_uri"]),
            "status": "failed" if error else "done",
            "error_class": error.error_class if error else None,
            "error_stage": stage,
            "error_message": error.message if error else None,
            "attempts": known.get("attempts", 0) + 1,
            "style": str(self.mix),
            "strength": self.strength,
            "seed": self.seed,
            "model_digest": model_digest,
            "job_digest": job_digest,
            "shard": shard,
            "finished_at": now(),
        }

    def count(self, result: ShardResult) -> None:
        """Add it to what its shard comes to."""
        if self.failure is None:
            record = self.record
            pixels = record["output_width"] * record["output_height"]
            result.add_done(record["source_size"], record["output_bytes"], pixels)
        else:
            stage, error = self.failure
            uri = redact_url(self.row["source_uri"])
            result.add_failed(Failure(self.row["id"], uri, error.error_class, stage, error.message))


def by_row(part: pa.Table | None) -> Rows:
    """The rows of a shard's part, or none."""
    if part is None:
        return {}
    rows = part.select(LEDGER_SCHEMA.names).to_pylist()
    return {(row["id"], row["variant"]): row for row in rows}


def part_of(finished: list[Item], before: pa.Table | None, rows: pa.Table) -> tuple[pa.Table, int]:
    """The part of a shard: items that are complete, and rows of the part before not among them.

    And how many of the latter the manifest says something else of by now.

    Carried columns go from table to table, never through Python, which has not all their types.

    Args:
        rows: of the shard, as plan.Shard has them.
    """
    table = pa.Table.from_pylist([item.record for item in finished], schema=LEDGER_SCHEMA)
    order = pa.array([item.index for item in finished], pa.int64())
    for name in carried_columns(rows):
        table = table.append_column(rows.schema.field(name), rows.column(name).take(order))
    if before is None:
        return table, 0
    redone = {item.key for item in finished}
    kept = before.filter(pa.array([key not in redone for key in row_keys(before)]))
    kept, updated = up_to_date(kept, rows)
    return pa.concat_tables([kept, table], promote_options="default"), updated
