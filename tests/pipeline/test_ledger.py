from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import RequestError, SystemFault
from pipeline.ledger import GROUP, LEDGER_SCHEMA, RESERVED, Ledger, now
from pipeline.storage import Storage
from pipeline.url import join
from tests.pipeline.servers import forward, serving


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    return join(place, "out")


def part(*ids: str, **columns: Any) -> pa.Table:
    records = [
        {
            "id": row_id, "variant": 0, "status": "done", "attempts": 1, "source_uri": row_id,
            "style": "red", "strength": 1.0, "seed": 0, "model_digest": "m", "job_digest": "j",
            "shard": "k", "finished_at": now(),
        }
        for row_id in ids
    ]  # fmt: skip
    table = pa.Table.from_pylist(records, schema=LEDGER_SCHEMA)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table


def ids(ledger: Ledger) -> list[str]:
    return sorted(
        row_id for batch in ledger.scan(["id"]) for row_id in batch.column("id").to_pylist()
    )


def test_what_is_committed_is_read(out: str) -> None:
    ledger, rows = Ledger(Storage(), out), part("a", "b", boxes=[[{"x": 1}], []])
    ledger.commit("one", rows)
    read = ledger.read_part("one")
    assert read is not None
    assert read.equals(rows)
    assert ledger.shards() == ["one"]
    assert ledger.part_url("one") == join(out, "metadata", "one.parquet")


def test_a_ledger_may_be_empty(out: str) -> None:
    ledger = Ledger(Storage(), out)
    assert ledger.shards() == []
    assert list(ledger.scan(["id"])) == []
    assert ledger.read_part("one") is None


def test_a_commit_replaces_the_part(out: str) -> None:
    ledger = Ledger(Storage(), out)
    ledger.commit("one", part("a", "b"))
    ledger.commit("one", part("b"))
    assert ids(ledger) == ["b"]


def test_parts_add_up(out: str) -> None:
    ledger = Ledger(Storage(), out)
    ledger.commit("one", part("a", "b"))
    ledger.commit("two", part("c"))
    assert ids(ledger) == ["a", "b", "c"]


def test_parts_may_carry_different_columns(out: str) -> None:
    ledger = Ledger(Storage(), out)
    ledger.commit("one", part("a"))
    ledger.commit("two", part("b", label=["cat"]))
    assert ids(ledger) == ["a", "b"]


def test_other_files_beside_the_parts_do_not_count(out: str) -> None:
    ledger = Ledger(Storage(), out)
    ledger.commit("one", part("a"))
    Storage().write({join(out, "metadata", "note.txt"): b"hello"})
    assert ids(ledger) == ["a"]


def test_reading_the_ledger_asks_once_for_each_part(s3: str, s3_server: str) -> None:
    shards = [f"shard{number}" for number in range(2 * GROUP + 1)]
    ledger = Ledger(Storage(), s3)
    for shard in shards:
        ledger.commit(shard, part(shard))
    with serving(forward(s3_server)) as server:
        ledger = Ledger(Storage({"endpoint_url": server.url}), s3)
        assert ids(ledger) == sorted(shards)
    names = [f"/photos/metadata/{shard}.parquet" for shard in shards]
    asked = [one.partition("?")[0] for one in server.asked if "list-type" not in one]
    assert sorted(asked) == sorted(f"GET {name}" for name in names)


def test_a_part_removed_while_the_ledger_is_read_is_left_out(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(Storage(), out)
    ledger.commit("one", part("a"))
    monkeypatch.setattr(ledger, "shards", lambda: ["gone", "one", *["gone"] * GROUP])
    assert ids(ledger) == ["a"]


@pytest.mark.parametrize("damaged", ["first", "second"])
def test_a_damaged_part_is_named(out: str, damaged: str) -> None:
    ledger = Ledger(Storage(), out)
    for name in ("first", "second"):
        ledger.commit(name, part(name))
    Storage().write({ledger.part_url(damaged): b"no Parquet, but long enough for one"})
    with pytest.raises(RequestError, match=rf"{damaged}\.parquet"):
        ids(ledger)


def test_a_part_cut_short_is_named(tmp_path: Path) -> None:
    ledger = Ledger(Storage(), str(tmp_path))
    ledger.commit("one", part(*map(str, range(1000))))
    path = Path(ledger.part_url("one"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RequestError, match=r"one\.parquet"):
        ids(ledger)


def test_a_damaged_part_of_a_shard_is_a_fault_of_the_system(out: str) -> None:
    ledger = Ledger(Storage(), out)
    Storage().write({ledger.part_url("one"): b"no Parquet, but long enough for one"})
    with pytest.raises(SystemFault, match=r"one\.parquet"):
        ledger.read_part("one")


def test_the_ledger_reserves_its_own_columns() -> None:
    assert {"id", "status", "shard", "finished_at"} <= RESERVED
    assert not RESERVED & {"uri", "label", "size"}
