"""A job over storage that fails in all ways, and is away for a while."""

from __future__ import annotations

from tests.pipeline.servers import WAYS
from tests.proof.faults import compare


def test_storage_that_misbehaves_costs_no_row(s3: str, pack: str) -> None:
    figures = compare(s3, pack, "red", rows=64, share=0.15, delay=0.2, outage=2.0)
    assert figures["same ledger"]
    assert set(figures["faults"]) == {*WAYS, "away"}
