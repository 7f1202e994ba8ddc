"""What restyle costs at scale: measures it, and makes a page of it.

python -m tests.scale FOLDER > docs/scale.md      # everything, then the page
python -m tests.scale FOLDER ledger memory        # only these parts, no page
python -m tests.scale FOLDER --quick              # a hundredth of it, to see whether it works

What each part found is kept in FOLDER as JSON, so that a part is not done twice. Where
PREFECT_API_URL is set, what is asked of a server is asked of that one too: --server says what it
is, --plots where the page's pictures go.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.scale.page import page, plots

SHARD_SIZES = (1, 8, 32, 128, 512, 2048)

# Images for each: enough shards that there is something to see, and no more than take a minute.
IMAGES = {1: 512, 8: 2048}
MANY_IMAGES = 8192

Command = list[str]


def commands(quick: bool) -> dict[str, list[Command]]:
    """What each part starts, each of which prints figures as JSON."""
    scale = 100 if quick else 1

    def plan(rows: int, shard_size: int, *more: str) -> Command:
        return ["plan", "--rows", str(rows // scale), "--shard-size", str(shard_size), *more]

    def end_to_end(shard_size: int) -> Command:
        images = max(IMAGES.get(shard_size, MANY_IMAGES) // scale, shard_size)
        return ["shards", "--shards", str(images // shard_size), "--shard-size", str(shard_size),
                "--size", "256", "--pack", "shipped", "--workers", "auto"]  # fmt: skip

    many = [10_000, 1_000_000, 10_000_000]
    return {
        "plans": [
            *(plan(rows, 512, *spool) for rows in many for spool in ([], ["--spool"])),
            plan(1_000_000, 1, "--spool"),
        ],
        "shards": [["shards", "--shards", str(1000 // scale)]],
        "server": [["shards", "--shards", str(1000 // scale)]],
        "shard_sizes": [end_to_end(size) for size in SHARD_SIZES if size <= 2048 // scale],
        "memory": [["memory", "--images", str(50_000 // scale)]],
        "ledger": [["ledger", "--parts", str(100_000 // scale), "--rows", "2"]],
        "ledger_rows": [["ledger", "--parts", str(2000 // scale), "--rows", "512"]],
        "ledger_s3": [["ledger", "--parts", str(2000 // scale), "--rows", "2", "--s3"]],
        "requests": [["requests", "--rows", "50"]],
    }


# Of these parts the figures are a list.
LISTS = ("plans", "shard_sizes")


def main() -> None:
    """Do what is not done yet, and print the page unless only some parts were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", metavar="part")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--server", default="the server of PREFECT_API_URL")
    parser.add_argument("--plots", type=Path, default=Path("docs/scale"))
    options = parser.parse_args()
    parts = commands(options.quick)
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    found = {
        name: figures
        for name, part in parts.items()
        if not options.parts or name in options.parts
        if (figures := _figures(options.folder / f"{name}.json", name, part))
    }
    if not options.parts:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name, picture in plots(found).items():
            (options.plots / f"{name}.svg").write_text(picture)
        print(page(found, options.server), end="")


def _figures(kept: Path, name: str, part: list[Command]) -> Any:
    """Of a part; None of one that cannot be done here."""
    if not kept.exists():
        environment = dict(os.environ)
        if name != "server":
            environment.pop("PREFECT_API_URL", None)
        elif "PREFECT_API_URL" not in environment:
            return None
        figures = [_said(command, environment) for command in part]
        kept.write_text(json.dumps(figures if name in LISTS else figures[0]))
    return json.loads(kept.read_text())


def _said(command: Command, environment: dict[str, str]) -> Any:
    print(f"python -m tests.scale.{' '.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"tests.scale.{command[0]}", *command[1:]],
        stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
