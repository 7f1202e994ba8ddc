"""All the damage that is done to restyle on purpose, and a page that tells what came of it.

python -m tests.proof FOLDER > docs/proof.md

What each part found is kept in FOLDER as JSON, so that a part is not done twice; it takes an hour
on two cores. As root, since it mounts disks from which it takes the power.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.text import plural
from tests.proof.promises import PROMISES

PARTS = {
    "disk": ["tests.proof.chaos", "--kills", "50", "--seed", "0"],
    "s3": ["tests.proof.chaos", "--kills", "20", "--seed", "3", "--s3"],
    "tars": ["tests.proof.chaos", "--kills", "25", "--seed", "5", "--layout", "webdataset"],
    "tables": ["tests.proof.chaos", "--kills", "25", "--seed", "11", "--layout", "parquet", "--s3"],
    "power": ["tests.proof.power", "--cuts", "10", "--seed", "0"],
    "races": ["tests.proof.races", "--rounds", "20"],
    "faults": ["tests.proof.faults", "--rows", "400"],
    "hostile": ["tests.proof.hostile"],
}

PAGE = """\
# What restyle survives

Made by `python -m tests.proof FOLDER > docs/proof.md`, which does all this on the machine that it
is started on; this page is of two shared cores.

| | |
|---|---:|
| processes and runs killed with SIGKILL | {kills} |
| disks that lost their power | {cuts} |
| storage requests failed on purpose, and absorbed | {faults} |
| seconds of total outage waited for | {outage} |
| hostile images tried | {hostile} |
| runs started at the same moment on one folder | {racing} |
| rows lost | {lost} |
| rows doubled, or that differ from their files | {doubled} |
| finished shards done again | {again} |
| worst time for one image | {slowest:.1f} s |
| worst memory for one image | {largest:,.0f} MB |

Anything but 0 where a 0 is due makes the script, or a test, fail. Bytes outside of the folder of
results and secrets told are looked for by tests: see the end of the page.

## Killed

Runs of 160 photos in 40 shards, killed at moments drawn from a seed, started again, killed again,
until they had ended; then compared with a run that was left alone: images byte for byte, the
ledger but for times. Tars and tables are those of `--layout`.

| | disk | S3 | tars on disk | tables on S3 |
|---|---:|---:|---:|---:|
{killed}

## Without power

{cuts} times a run of 600 photos was stopped midway, and what had reached the disk by then was taken
for all that there is, as after a power cut: an ext4 file system in a file, which was copied. Every
result that the ledger had as done, {kept} in all, was whole; the same command did the other
{rest}.

## Storage that fails

{rows} photos from bucket to bucket, through a proxy that let one request in ten fail ({ways}).
And once, in the middle, nobody was answered for {outage} seconds. All rows were done, the ledger
is that of an undisturbed run. {calm} s without any of it; {rough} s with it, so beyond the outage
{slower} times as long. {requests} in all.

## At the same moment

{rounds} times three processes started the same job on one folder, half of the times on an S3
server. {did} did it, {told} were told who does, and stopped. The rows were those of a single run
every time.

## Hostile images

{hostile} files, of which {ended}. Why, with numbers left out:

| | images |
|---|---:|
{reasons}

## Every promise, and the test that keeps it

| the README says | kept by |
|---|---|
{promises}
"""


def main() -> int:
    """Do what is not done yet, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: _figures(folder / f"{name}.json", PARTS[name]) for name in PARTS}
    print(page(**found), end="")
    return 0


def _figures(kept: Path, module: list[str]) -> Any:
    if not kept.exists():
        print(f"python -m {' '.join(module)}", file=sys.stderr, flush=True)
        said = subprocess.run(
            [sys.executable, "-m", *module], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        kept.write_text(said)
    text = kept.read_text()
    if module[0].endswith("hostile"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def page(
    disk: dict[str, Any],
    s3: dict[str, Any],
    tars: dict[str, Any],
    tables: dict[str, Any],
    power: dict[str, Any],
    races: dict[str, Any],
    faults: dict[str, Any],
    hostile: list[dict[str, Any]],
) -> str:
    """The page, as Markdown, from what each part found."""
    killed = [disk, s3, tars, tables]
    problems = [one for part in (*killed, power, races) for one in part["problems"]]
    ways = {way: number for way, number in faults["faults"].items() if way != "away"}
    return PAGE.format(
        kills=sum(sum(part["kills"].values()) for part in killed),
        faults=f"{sum(faults['faults'].values()):,}",
        outage=f"{faults['outage']:.0f}",
        cuts=power["cuts"],
        kept=f"{power['done']:,}",
        rest=f"{power['left']:,}",
        hostile=len(hostile),
        racing=races["runs"],
        lost=sum("run without interruption" in one or "missing" in one for one in problems),
        doubled=sum("doubled" in one or "damaged" in one for one in problems),
        again=sum("done again" in one for one in problems),
        slowest=max(one["seconds"] for one in hostile),
        largest=max(one["megabytes"] for one in hostile),
        killed=_killed(killed),
        rows=f"{faults['rows']:,}",
        ways=", ".join(f"{name} {number}" for name, number in sorted(ways.items())),
        calm=faults["seconds"][0],
        rough=faults["seconds"][1],
        slower=f"{faults['slower beyond the outage']:.2f}",
        requests=plural(faults["requests"], "request"),
        rounds=races["rounds"],
        told=races["said"].get("told who works on it", 0),
        did=races["runs"] - races["said"].get("told who works on it", 0),
        ended=_ended(hostile),
        reasons=_reasons(hostile),
        promises="\n".join(f"| {said} | `{test}` in {file} |" for said, file, test in PROMISES),
    )


def _killed(parts: list[dict[str, Any]]) -> str:
    lines = {
        f"{what} killed": [part["kills"].get(what, 0) for part in parts]
        for what in ("worker", "workers", "run", "server", "all")
    }
    lines["times started"] = [part["rounds"] for part in parts]
    lines["jobs that came to their end"] = [part["jobs"] for part in parts]
    lines["sources replaced in between"] = [part["replaced"] for part in parts]
    lines["labels corrected in between"] = [part["corrected"] for part in parts]
    lines["problems"] = [len(part["problems"]) for part in parts]
    return "\n".join(
        f"| {what} | {' | '.join(map(str, numbers))} |" for what, numbers in lines.items()
    )


def _ended(hostile: list[dict[str, Any]]) -> str:
    kinds = Counter(one["outcome"].partition(":")[0] for one in hostile)
    return ", ".join(f"{number} ended as {kind}" for kind, number in kinds.most_common())


def _reasons(hostile: list[dict[str, Any]]) -> str:
    reasons = Counter(re.sub(r"\d+", "n", one["outcome"].replace("|", "/")) for one in hostile)
    return "\n".join(f"| {reason} | {number} |" for reason, number in reasons.most_common())


if __name__ == "__main__":
    sys.exit(main())
