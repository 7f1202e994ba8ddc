"""The page and its pictures, from what the parts have found."""

from __future__ import annotations

import textwrap
from typing import Any

from pipeline.text import plural, size, span
from tests.scale.memory import growth, warm
from tests.scale.plot import plot
from tests.scale.simulation import LISTED, MARGIN, S3_GET, S3_PUT, Costs, costs_of, simulate

# The job that is far larger than any that was measured.
IMAGES, GPUS = 1_000_000_000, 1000

# Images a second of one GPU: an assumption, not a measurement.
RATE = 500.0

# GPUs of one machine, for as many runs as there are machines.
GPUS_OF_MACHINE = 8

SHARD_SIZES = (512, 2048, 8192, 32_768)

# Images after which the memory of a worker is looked at first.
WARMED_UP = 1000

PAGE = """\
# What restyle costs at scale

Made by `python -m tests.scale FOLDER > docs/scale.md`, which measures all this on the machine that
it is started on; this page is of two shared cores with AMX. Core seconds are those of all threads
of a process, which a busy neighbour changes less than the clock.

## Planning

`restyle plan` reads the manifest and the ledger; a run also writes its plan down for the workers.
Each in a process of its own, from a Parquet manifest; the memory is the most that it had.

| rows | rows a shard | | seconds | core seconds | memory |
|---:|---:|---|---:|---:|---:|
{plans}

![seconds against rows](scale/plan.svg)

A row takes {row:.1f} µs and {row_memory:.0f} bytes; a shard {shard:.0f} µs and {shard_memory:.0f}
bytes more.

## Going on with a large ledger

{parts} parts of {part_rows} rows, {ledger_size} on disk. Each of these is a process of its own;
*parts* is what `restyle verify` reads of the ledger before it looks at the results.

| | seconds | core seconds | memory |
|---|---:|---:|---:|
{ways}

With parts of {usual_rows} rows, {many_rows} in all, planning again took {again_seconds:.1f} s and
{again_memory:,.0f} MB. On S3 every part is asked for once: for {s3_parts} parts there were
{s3_requests}.

## A thousand shards in one run

Shards of one image of 16x16 pixels and a network with hardly any weights, one worker, so that
there is nothing but what a shard costs.

| | {servers} |
|---|{bars}
{shards}

![memory of the flow process](scale/flow.svg)

To the server goes, for each shard: {asked}.

## Images a second against the size of shards

256x256, the shipped network, JPEG files to JPEG files, in a flow run with all workers of this
machine and an embedded server.

| rows a shard, at most | shards | images a second |
|---:|---:|---:|
{shard_sizes}

![images a second](scale/shard_size.svg)

## Memory of a worker

One worker, {memory_images} photos of {low} to {high} pixels a side in no order, `--size native`,
with a small network. After {warmed:,} images it had {first:,.0f} MB, at the end {last:,.0f} MB:
{grown:+.1f} % (wanted: no more than 5 %).

![memory of a worker](scale/worker.svg)

## A billion images on a thousand GPUs

Computed, not measured: from the figures above, and from {rate:,.0f} images a second of each GPU,
**which is an assumption**; whatever is told of a second grows with it. All GPUs together then do
{images_a_second:,.0f} images a second, and a billion in {whole}, if nothing is lost.

### Which size of shards

| rows a shard | {sizes} |
|---|{size_bars}
{by_size}

S3 publishes {s3_put:,} writes and {s3_get:,} reads a second for each partition of a bucket's keys,
and partitions a bucket by itself as the load grows, which takes it a while: until then it answers
503, which is tried again. The requests for images do not depend on the size of shards, those for
shards nearly vanish.

### Which number of runs

With {best:,} rows a shard:

| runs | {runs} |
|---|{run_bars}
{by_runs}

### So

{conclusion}

### What this does not say

The server was asked by one run; many runs at once have not been measured. Nor has S3: requests to a
server on this machine were counted, not timed. Whether the network between GPUs and bucket carries
{traffic} a second each way (20 kB an image), those must measure who have them. A thousand GPUs in
one run (`--runner ray`) would need the flow process to do with one core what the table above says.
"""


def page(found: dict[str, Any], server: str) -> str:
    """The page, as Markdown.

    Args:
        found: figures of the parts, by their names; ``server`` may be missing.
        server: what the server is called that was not embedded.
    """
    costs = costs_of(found)
    ledger, rows, s3 = found["ledger"], found["ledger_rows"], found["ledger_s3"]
    servers = {"embedded server": found["shards"]}
    if "server" in found:
        servers[server] = found["server"]
    samples = found["memory"]["megabytes"]
    best = _best(costs, 1)
    machines = GPUS // GPUS_OF_MACHINE
    return PAGE.format(
        plans="\n".join(_plan(one) for one in found["plans"]),
        row=costs.row * 1e6,
        row_memory=costs.row_memory,
        shard=costs.shard * 1e6,
        shard_memory=costs.shard_memory,
        parts=f"{ledger['parts']:,}",
        part_rows=ledger["rows"],
        ledger_size=size(ledger["bytes"]),
        ways="\n".join(_way(name, one) for name, one in ledger["ways"].items()),
        usual_rows=rows["rows"],
        many_rows=f"{rows['parts'] * rows['rows']:,}",
        again_seconds=rows["ways"]["plan"]["seconds"],
        again_memory=rows["ways"]["plan"]["megabytes"],
        s3_parts=f"{s3['parts']:,}",
        s3_requests=plural(sum(s3["requests"].values()), "request"),
        servers=" | ".join(servers),
        bars="---:|" * len(servers),
        shards=_shards(list(servers.values())),
        asked=_asked(found["shards"]),
        shard_sizes="\n".join(
            f"| {one['shard_size']:,} | {one['shards']:,} | {one['images_per_second']:,.1f} |"
            for one in found["shard_sizes"]
        ),
        memory_images=f"{found['memory']['images']:,}",
        low=found["memory"]["sides"][0],
        high=found["memory"]["sides"][1],
        warmed=warm(samples, WARMED_UP)[0],
        first=warm(samples, WARMED_UP)[1],
        last=samples[-1][1],
        grown=100 * growth(samples, WARMED_UP),
        rate=RATE,
        images_a_second=GPUS * RATE,
        whole=span(IMAGES / GPUS / RATE),
        sizes=" | ".join(f"{one:,}" for one in SHARD_SIZES),
        size_bars="---:|" * len(SHARD_SIZES),
        by_size=_by_size(costs),
        s3_put=S3_PUT,
        s3_get=S3_GET,
        best=best,
        runs=" | ".join(f"{one:,}" for one in (1, 10, machines, GPUS)),
        run_bars="---:|" * 4,
        by_runs=_by_runs(costs, best, (1, 10, machines, GPUS)),
        conclusion=_conclusion(costs, machines, servers),
        traffic=size(GPUS * RATE * 20_000),
    )


def plots(found: dict[str, Any]) -> dict[str, str]:
    """The page's pictures, SVG, by their names."""
    plans = [one for one in found["plans"] if one["shard_size"] != 1]
    seconds = {
        name: [(one["rows"], max(one["seconds"], 0.01)) for one in plans if one["spool"] is spool]
        for name, spool in (("restyle plan", False), ("and written down", True))
    }
    flows = {"embedded": found["shards"]["megabytes"]}
    if "server" in found:
        flows["server"] = found["server"]["megabytes"]
    rates = [(one["shard_size"], one["images_per_second"]) for one in found["shard_sizes"]]
    worker = {"worker": found["memory"]["megabytes"]}
    return {
        "plan": plot("Planning", "rows", "seconds", seconds, True, True),
        "flow": plot("Memory of the flow process", "shards done", "MB", flows, False, False),
        "shard_size": plot(
            "Images a second", "rows a shard", "", {"images a second": rates}, True, False
        ),
        "worker": plot("Memory of a worker", "images done", "MB", worker, False, False),
    }


def _plan(one: dict[str, Any]) -> str:
    what = "and written down" if one["spool"] else ""
    return f"| {one['rows']:,} | {one['shard_size']:,} | {what} | {_took(one)} |"


def _way(name: str, one: dict[str, float]) -> str:
    told = {"plan": "`restyle plan`", "status": "`restyle status`", "report": "`restyle report`",
            "list": "names of the parts", "verify": "parts"}[name]  # fmt: skip
    return f"| {told} | {_took(one)} |"


def _took(one: dict[str, float]) -> str:
    return f"{one['seconds']:,.2f} | {one['core_seconds']:,.2f} | {one['megabytes']:,.0f} MB"


def _shards(runs: list[dict[str, Any]]) -> str:
    rows = {
        "shards done": lambda run: f"{run['states']['COMPLETED']:,} of {run['shards']:,}",
        "errors and warnings": lambda run: f"{sum(run['complaints'].values()):,}",
        "seconds a shard": lambda run: f"{run['seconds_per_shard']:.3f}",
        "of these the worker works": lambda run: f"{run['work_per_shard']:.3f}",
        "core seconds a shard, flow process": lambda run: f"{run['core_seconds_per_shard']:.3f}",
        "core seconds a shard, server": lambda run: (
            f"{run['server_core_seconds_per_shard']:.3f}"
            if run["server_core_seconds_per_shard"] is not None
            else ""
        ),
        "the server has written all down after": lambda run: f"{run['recorded_after']:.1f} s",
        "seconds a shard until it has": lambda run: f"{run['recorded_per_shard']:.3f}",
        "memory of the server before, and after the last shard": lambda run: (
            "{:,.0f} MB, {:,.0f} MB".format(*run["server_megabytes"])
            if run["server_megabytes"] is not None
            else ""
        ),
        "memory of the flow process after the first shard": lambda run: (
            f"{run['megabytes'][0][1]:,.0f} MB"
        ),
        "after the last": lambda run: f"{run['megabytes'][-1][1]:,.0f} MB",
    }
    return _table(rows, runs)


def _asked(run: dict[str, Any]) -> str:
    asked = [(name, count) for name, count in run["requests_per_shard"].items() if count >= 0.5]
    rest = sum(count for count in run["requests_per_shard"].values() if count < 0.5)
    return ", ".join(f"{count:.1f} `{name}`" for name, count in asked) + f"; {rest:.2f} of all else"


def _by_size(costs: Costs) -> str:
    needs = [simulate(costs, IMAGES, GPUS, RATE, one, 1) for one in SHARD_SIZES]
    rows = {
        "shards": lambda n: f"{n.shards:,.0f}",
        "seconds of a GPU for a shard": lambda n: f"{n.shard_seconds:,.1f}",
        "shards a second": lambda n: f"{n.shards_per_second:,.0f}",
        "events a second to the Prefect server": lambda n: f"{n.events_per_second:,.0f}",
        "cores of such a server": lambda n: f"{n.server_cores:,.1f}",
        "cores of one flow process, if there is only one": lambda n: f"{n.flow_cores:,.1f}",
        "S3 reads a second": lambda n: f"{n.gets_per_second:,.0f}",
        "partitions for so many reads": lambda n: f"{n.get_partitions:,.0f}",
        "S3 writes a second": lambda n: f"{n.puts_per_second:,.0f}",
        "partitions for so many writes": lambda n: f"{n.put_partitions:,.0f}",
        "parts of the ledger": lambda n: f"{n.shards:,.0f}",
        f"listings of {LISTED:,} parts to find them": lambda n: f"{n.listings:,.0f}",
        "bytes of the ledger": lambda n: size(n.ledger_bytes),
    }
    return _table(rows, needs)


def _by_runs(costs: Costs, shard_size: int, runs: tuple[int, ...]) -> str:
    needs = [simulate(costs, IMAGES, GPUS, RATE, shard_size, one) for one in runs]
    rows = {
        "images of one": lambda n: f"{n.rows_of_run:,.0f}",
        "to plan one": lambda n: f"{span(n.plan_seconds)}, {size(n.plan_memory)}",
        "to plan one again when all is done": lambda n: (
            f"{span(n.again_seconds)}, {size(n.again_memory)}"
        ),
        "cores of one flow process": lambda n: f"{n.flow_cores:.2f}",
        "what its memory grows by": lambda n: size(n.flow_memory),
    }
    return _table(rows, needs)


def _table(rows: dict[str, Any], columns: list[Any]) -> str:
    return "\n".join(
        f"| {name} | " + " | ".join(cell(column) for column in columns) + " |"
        for name, cell in rows.items()
    )


def _best(costs: Costs, servers: int) -> int:
    """The smallest size of shards that so many servers as measured keep up with, half busy."""
    for shard_size in SHARD_SIZES:
        needs = simulate(costs, IMAGES, GPUS, RATE, shard_size, servers)
        if needs.shards_per_second / servers * costs.server_seconds <= MARGIN:
            return shard_size
    return SHARD_SIZES[-1]


def _conclusion(costs: Costs, machines: int, servers: dict[str, dict[str, Any]]) -> str:
    together, apart = _best(costs, 1), _best(costs, machines)
    one = simulate(costs, IMAGES, GPUS, RATE, together, 1)
    split = simulate(costs, IMAGES, GPUS, RATE, apart, machines)
    took = ", ".join(
        f"{1 / run['recorded_per_shard']:.1f} ({name})" for name, run in servers.items()
    )
    text = f"""
        Shards a second that a server has written down: {took}; one run on all GPUs makes
        {one.shards_per_second:,.1f} with `--shard-size {together}`. Workers do not wait for the
        server, but what it lags behind by is in its memory. One run for all is not the way in any
        case: its plan would take {span(one.plan_seconds)} and
        {size(one.plan_memory)} of memory before the first image, and {size(one.again_memory)} when
        it is gone on with. **Split the manifest into {machines} pieces of
        {IMAGES // machines:,} rows, one for each machine of {GPUS_OF_MACHINE} GPUs, each with an
        `--out` and an embedded server of its own, and take `--shard-size {apart}`**: a piece is
        planned in {span(split.plan_seconds)} and {size(split.plan_memory)}, gone on with in
        {span(split.again_seconds)} and {size(split.again_memory)}, its server is told of
        {split.shards_per_second / machines:.1f} shards a second, a machine that is lost holds up
        nobody else, and whoever reads the ledgers reads them as one data set. What bounds such a
        job is the bucket: {split.puts_per_second:,.0f} writes a second want about
        {split.put_partitions:,.0f} partitions. Give pieces and ids many different beginnings,
        begin with few machines and let more join, or put up with 503 and a slower start.
    """
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False)
