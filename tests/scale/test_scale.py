"""The page of what restyle costs at scale, and each part of it at a size that takes a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.status import read_status
from pipeline.storage import Storage
from tests.conftest import write_pack
from tests.scale import ledger, memory, page, plan, requests, shards
from tests.scale.plot import LEFT, RIGHT, WIDTH
from tests.scale.simulation import S3_PUT, Costs, simulate

COSTS = Costs(
    row=1e-6, shard=1e-4, row_memory=100.0, shard_memory=300.0, known_row=3e-6,
    known_memory=50.0, part=1e-3, ledger_row=100.0, flow=0.02, server=0.08, server_seconds=0.1,
    flow_memory=5000.0, events=4.0, gets=(1.0, 3.0), puts=(1.0, 1.0),
)  # fmt: skip


def took(seconds: float, megabytes: float) -> dict[str, float]:
    return {"seconds": seconds, "core_seconds": seconds, "megabytes": megabytes}


def flow(shard_size: int, rate: float) -> dict[str, Any]:
    return {
        "shard_size": shard_size, "shards": 1000, "images_per_second": rate,
        "seconds_per_shard": 0.125, "recorded_per_shard": 0.25, "work_per_shard": 0.03,
        "server_megabytes": None, "core_seconds_per_shard": 0.02,
        "server_core_seconds_per_shard": 0.075, "recorded_after": 3.0, "complaints": {"oh": 2},
        "requests_per_shard": {"event shard": 4.0, "POST /logs/": 0.3},
        "states": {"COMPLETED": 998}, "megabytes": [[1, 190.0], [500, 200.0], [1000, 205.0]],
    }  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    """Made-up figures of all parts but ``server``."""
    sizes = [
        (10_000, 512, 120),
        (1_000_000, 512, 219),
        (10_000_000, 512, 1119),
        (1_000_000, 1, 519),
    ]
    return {
        "plans": [
            {"rows": rows, "shard_size": size, "spool": True,
             **took(rows * 1e-5 + rows / size * 1e-3, megabytes)}
            for rows, size, megabytes in sizes
        ],
        "shards": flow(1, 8.0),
        "shard_sizes": [flow(1, 8.0), flow(512, 240.0)],
        "memory": {"images": 50_000, "sides": [48, 192],
                   "megabytes": [[500, 600.0], [1000, 650.0], [50_000, 663.0]]},
        "ledger": {"parts": 100_000, "rows": 2, "bytes": 8e8, "usual_rows": 512,
                   "usual_bytes": 51_200, "ways": {way: took(60.0, 300.0) for way in ledger.WAYS}},
        "ledger_rows": {"parts": 2000, "rows": 512, "ways": {"plan": took(9.0, 400.0)}},
        "ledger_s3": {"parts": 2000, "requests": {"GET": 2005}},
        "requests": {"image": {"GET": 1.0, "HEAD": 0.0, "PUT": 1.0},
                     "shard": {"GET": 2.0, "HEAD": 1.0, "PUT": 1.0}},
    }  # fmt: skip


def test_the_page_tells_what_was_found(found: dict[str, Any]) -> None:
    text = page.page(found, "PostgreSQL")
    assert "| 1,000,000 | 1 | and written down | 1,010.00 | 1,010.00 | 519 MB |" in text
    assert "A row takes 12.0 µs and 100 bytes" in text
    assert "for 2,000 parts there were\n2,005 requests" in text
    assert "| shards done | 998 of 1,000 |" in text
    assert "| errors and warnings | 2 |" in text
    assert "Shards a second that a server has written down: 4.0 (embedded server)" in text
    assert "| 512 | 1,000 | 240.0 |" in text
    assert "After 1,000 images it had 650 MB, at the end 663 MB:\n+2.0 %" in text
    assert "PostgreSQL" not in text
    assert "| | embedded server | PostgreSQL |" in page.page(
        {**found, "server": flow(1, 20.0)}, "PostgreSQL"
    )


def test_the_pictures_show_every_line(found: dict[str, Any]) -> None:
    pictures = page.plots({**found, "server": flow(1, 20.0)})
    points = {
        name: [line.get("points") for line in ElementTree.fromstring(svg).iter()
               if line.tag.endswith("polyline")]
        for name, svg in pictures.items()
    }  # fmt: skip
    assert {name: len(lines) for name, lines in points.items()} == {
        "plan": 2, "flow": 2, "shard_size": 1, "worker": 1,
    }  # fmt: skip
    # From the left edge of a logarithmic scale to what is 512 of 1,000 of it.
    first, last = (point.split(",") for point in str(points["shard_size"][0]).split())
    assert float(first[0]) == LEFT
    assert float(last[0]) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 2.709 / 3, abs=0.5)
    assert float(first[1]) > float(last[1])


def test_a_simulated_job_adds_up() -> None:
    needs = simulate(COSTS, images=1e6, gpus=10, rate=100.0, shard_size=500, runs=4)
    assert (needs.shards, needs.seconds, needs.shard_seconds) == (2000, 1000, 5)
    assert (needs.shards_per_second, needs.events_per_second) == (2, 8)
    assert needs.server_cores == pytest.approx(0.16)
    assert needs.flow_cores == pytest.approx(0.01)
    assert (needs.gets_per_second, needs.puts_per_second) == (1006, 1002)
    assert needs.put_partitions == 1002 / S3_PUT
    assert (needs.ledger_bytes, needs.listings, needs.rows_of_run) == (1e8, 2, 250_000)
    assert needs.plan_seconds == pytest.approx(0.25 + 0.05)
    assert needs.plan_memory == 250_000 * 100 + 500 * 300
    assert needs.again_seconds == pytest.approx(0.25 + 0.75 + 0.5)
    assert needs.again_memory == 250_000 * 150
    assert needs.flow_memory == 500 * 5000


@pytest.mark.parametrize("spool", [False, True])
def test_a_plan_is_measured(spool: bool, tmp_path: Path) -> None:
    figures = plan.plan(tmp_path, rows=1000, shard_size=100, spool=spool)
    assert figures["megabytes"] >= figures["megabytes_before"] > 10
    assert (figures["spool_bytes"] > 0) == spool


def test_a_written_ledger_is_one_of_a_job_that_is_done(tmp_path: Path) -> None:
    job = ledger._job(tmp_path, 10, 2, str(tmp_path / "out"))
    assert ledger.write_ledger(ledger.prepare(job)) == 5
    status = read_status(Storage(), job.out)
    assert (status.done, status.left) == (10, 0)
    for way in ledger.WAYS.values():
        way(job)
    assert ledger.usual_part_bytes(tmp_path) > 512 * 64


def test_a_ledger_on_s3_is_asked_for_once(s3: str, tmp_path: Path) -> None:
    requests_of = [ledger.on_s3(tmp_path, f"{s3}/{n}", n, 2)["requests"] for n in (3, 8)]
    assert requests_of[1]["GET"] - requests_of[0]["GET"] == 5
    assert requests_of[1].keys() == {"GET"}


@pytest.mark.extra
def test_requests_are_told_apart(s3: str, tmp_path: Path) -> None:
    write_pack(tmp_path / "tiny.safetensors", "wave")
    found = requests.requests(s3, str(tmp_path / "tiny.safetensors"), 5)
    assert (found["image"]["GET"], found["image"]["PUT"]) == (1, 1)
    assert found["shard"]["PUT"] == 1
    assert found["run"]["PUT"] >= 2


@pytest.mark.extra
def test_memory_is_that_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHARD", 8)
    samples = memory.memory(tmp_path, 20)["megabytes"]
    assert [done for done, _ in samples] == [8, 16, 20]
    assert min(size for _, size in samples) > 100
    assert memory.growth([(1, 1.0), (10, 2.0), (20, 3.0)], 10) == 0.5


@pytest.mark.extra
@pytest.mark.usefixtures("prefect")
def test_a_flow_run_is_measured(tmp_path: Path, pack: str) -> None:
    photos = shards.write_linked_photos(tmp_path, 12, 16)
    job = shards.Job(
        source=str(photos), out=str(tmp_path / "out"), style="red", size="16", pack=pack,
        shard_size=2, workers=1, device="cpu",
    )  # fmt: skip
    figures = shards.run(job)
    assert (figures["shards"], figures["done"], figures["failed"]) == (6, 12, 0)
    assert figures["states"]["COMPLETED"] == 6
    assert figures["seconds_per_shard"] > figures["work_per_shard"] > 0
    assert figures["requests_per_shard"]["event restyle.shard.committed"] >= 0.8
    assert [done for done, _ in figures["megabytes"]][-1] == 12
