from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import SystemFault
from pipeline.plan import Shard
from pipeline.spool import SHARDS_PER_FILE, ShardRef, read_shard, write_plan
from pipeline.storage import Storage, retry
from pipeline.url import join
from tests.pipeline.servers import forward, serving


def shard(number: int, rows: int = 3) -> Shard:
    table = pa.table(
        {
            "id": [f"{number}/{row}.jpg" for row in range(rows)],
            "boxes": [[{"x": row}] for row in range(rows)],
            "split": pa.array([f"split {number}"] * rows).dictionary_encode(),
        }
    )
    return Shard(f"key{number}", table)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_what_is_written_is_read(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path) if where == "local" else request.getfixturevalue("s3")
    shards = [shard(number, rows=number % 5 + 1) for number in range(2 * SHARDS_PER_FILE + 1)]
    refs = write_plan(Storage(), join(place, "plan"), iter(shards))
    assert [ref.number for ref in refs] == list(range(1, len(shards) + 1))
    assert [(ref.key, ref.rows) for ref in refs] == [(s.key, len(s.rows)) for s in shards]
    assert len(Storage().names(join(place, "plan"))) == 3
    for index in (0, 1, SHARDS_PER_FILE - 1, SHARDS_PER_FILE, 2 * SHARDS_PER_FILE):
        rows = read_shard(Storage(), refs[index])
        assert rows.schema == shards[index].rows.schema
        assert rows.to_pylist() == shards[index].rows.to_pylist()


def test_an_empty_plan_writes_nothing(tmp_path: Path) -> None:
    assert write_plan(Storage(), str(tmp_path / "plan"), []) == []
    assert list(tmp_path.iterdir()) == []


def test_a_shard_may_be_large(tmp_path: Path) -> None:
    large = Shard("key", pa.table({"id": [str(number) for number in range(100_000)]}))
    (ref,) = write_plan(Storage(), str(tmp_path), [large])
    assert read_shard(Storage(), ref).equals(large.rows)


def test_a_reference_is_small(tmp_path: Path) -> None:
    refs = write_plan(Storage(), str(tmp_path), [shard(1, rows=5000)])
    assert len(pickle.dumps(refs[0])) < 1000


def test_a_plan_that_is_gone_is_a_fault_of_the_system(tmp_path: Path) -> None:
    ref = ShardRef(1, "key", 3, str(tmp_path / "000000.shards"), 0, 9)
    with pytest.raises(SystemFault, match=r"cannot read the plan .*000000\.shards"):
        read_shard(Storage(), ref)


def test_a_plan_that_is_damaged_is_a_fault_of_the_system(tmp_path: Path) -> None:
    (ref,) = write_plan(Storage(), str(tmp_path), [shard(1)])
    whole = Path(ref.url).read_bytes()
    for damaged in (b"no Parquet", whole[:-9], whole[:40] + b"\0" * 200 + whole[240:]):
        Path(ref.url).write_bytes(damaged)
        with pytest.raises(SystemFault, match="cannot read the plan"):
            read_shard(Storage(), ref)


def test_reading_a_shard_survives_faults(
    s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.001)
    (ref,) = write_plan(Storage(), join(s3, "plan"), [shard(1)])
    with serving(forward(s3_server)) as faulty:
        storage = Storage({"endpoint_url": faulty.url})
        faulty.faults = 2
        assert read_shard(storage, ref).to_pylist() == shard(1).rows.to_pylist()
