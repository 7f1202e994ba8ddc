"""What a job far larger than any that was measured would need, from what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What S3 takes in a second on one partition of a bucket's keys: its published limits.
S3_GET, S3_PUT = 5500, 3500

# Keys in an answer to a listing.
LISTED = 1000

# Of what was measured as the most, how much is counted on.
MARGIN = 0.5


@dataclass(frozen=True)
class Costs:
    """What one of each costs, as measured; core seconds and bytes.

    Args:
        row: to plan it. shard: to plan it and write it down. row_memory, shard_memory: of the
            process that plans. known_row, known_memory: what planning takes more for a row that
            the ledger has. part: to read one, beyond its rows. ledger_row: in the ledger, on disk.
        flow, server: of the flow process and of the server, each shard. flow_memory: that the
            flow process keeps of a shard. server_seconds: that the server takes to write a shard
            down. events: to the server, each shard.
        gets, puts: S3 requests for an image, and for a shard.
    """

    row: float
    shard: float
    row_memory: float
    shard_memory: float
    known_row: float
    known_memory: float
    part: float
    ledger_row: float
    flow: float
    server: float
    server_seconds: float
    flow_memory: float
    events: float
    gets: tuple[float, float]
    puts: tuple[float, float]


@dataclass(frozen=True)
class Needs:
    """What a job needs: all its runs together, but for what is said to be of one run.

    Args:
        seconds: of work, without anything that is lost. shard_seconds: of one GPU for a shard.
        server_cores: of the Prefect server. flow_cores: of one run's flow process.
        get_partitions, put_partitions: of the bucket's keys, at S3's published limits.
        ledger_bytes, listings: of all parts.
        plan_seconds, plan_memory, again_seconds, again_memory, flow_memory: of one run; again:
            with all its rows in the ledger.
    """

    shards: float
    seconds: float
    shard_seconds: float
    shards_per_second: float
    events_per_second: float
    server_cores: float
    flow_cores: float
    gets_per_second: float
    puts_per_second: float
    get_partitions: float
    put_partitions: float
    ledger_bytes: float
    listings: float
    rows_of_run: float
    plan_seconds: float
    plan_memory: float
    again_seconds: float
    again_memory: float
    flow_memory: float


def simulate(
    costs: Costs, images: float, gpus: int, rate: float, shard_size: int, runs: int
) -> Needs:
    """What a job of so many images needs on so many GPUs, cut into so many runs.

    Args:
        rate: images a second of one GPU.
    """
    per_second = gpus * rate
    shards = images / shard_size
    shards_per_second = per_second / shard_size
    gets = per_second * costs.gets[0] + shards_per_second * costs.gets[1]
    puts = per_second * costs.puts[0] + shards_per_second * costs.puts[1]
    rows_of_run, shards_of_run = images / runs, shards / runs
    return Needs(
        shards=shards,
        seconds=images / per_second,
        shard_seconds=shard_size / rate,
        shards_per_second=shards_per_second,
        events_per_second=shards_per_second * costs.events,
        server_cores=shards_per_second * costs.server,
        flow_cores=shards_per_second * costs.flow / runs,
        gets_per_second=gets,
        puts_per_second=puts,
        get_partitions=gets / S3_GET,
        put_partitions=puts / S3_PUT,
        ledger_bytes=images * costs.ledger_row,
        listings=shards / LISTED,
        rows_of_run=rows_of_run,
        plan_seconds=rows_of_run * costs.row + shards_of_run * costs.shard,
        plan_memory=rows_of_run * costs.row_memory + shards_of_run * costs.shard_memory,
        again_seconds=rows_of_run * (costs.row + costs.known_row) + shards_of_run * costs.part,
        again_memory=rows_of_run * (costs.row_memory + costs.known_memory),
        flow_memory=shards_of_run * costs.flow_memory,
    )


def costs_of(found: dict[str, Any]) -> Costs:
    """The costs, from the figures of the parts by their names."""
    plans = {(one["rows"], one["shard_size"], one["spool"]): one for one in found["plans"]}
    by_rows = sorted(one for one in plans if one[1] != 1 and one[2])
    small, large = plans[by_rows[0]], plans[by_rows[-1]]
    finest = plans[next(one for one in plans if one[1] == 1)]
    same = plans[finest["rows"], large["shard_size"], True]
    extra_shards = finest["rows"] * (1 - 1 / large["shard_size"])
    more_rows = large["rows"] - small["rows"]
    ledger, usual = found["ledger"], found["ledger_rows"]
    known, known_finer = (one["parts"] * one["rows"] for one in (usual, ledger))
    row = _slope(small, large, "core_seconds", more_rows)
    again, again_finer = (one["ways"]["plan"] for one in (usual, ledger))
    known_row = max(0.0, again["core_seconds"] / known - row)
    shards, requests = found["shards"], found["requests"]
    asked = shards["requests_per_shard"]
    memory = shards["megabytes"]
    (half, early), (last, late) = memory[len(memory) // 2], memory[-1]
    return Costs(
        row=row,
        shard=_slope(same, finest, "core_seconds", extra_shards),
        row_memory=_slope(small, large, "megabytes", more_rows) * 1e6,
        shard_memory=_slope(same, finest, "megabytes", extra_shards) * 1e6,
        known_row=known_row,
        known_memory=_slope(same, again, "megabytes", known) * 1e6,
        part=max(0.0, again_finer["core_seconds"] - known_finer * (row + known_row))
        / ledger["parts"],
        ledger_row=ledger["usual_bytes"] / ledger["usual_rows"],
        flow=shards["core_seconds_per_shard"],
        server=shards["server_core_seconds_per_shard"],
        server_seconds=shards["recorded_per_shard"],
        flow_memory=max(0.0, late - early) / max(1, last - half) * 1e6 / shards["shard_size"],
        events=sum(count for name, count in asked.items() if name.startswith("event")),
        gets=(requests["image"]["GET"], requests["shard"]["GET"] + requests["shard"]["HEAD"]),
        puts=(requests["image"]["PUT"], requests["shard"]["PUT"]),
    )


def _slope(less: dict[str, Any], more: dict[str, Any], what: str, by: float) -> float:
    return max(0.0, float(more[what]) - float(less[what])) / by
