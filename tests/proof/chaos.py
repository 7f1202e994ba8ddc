"""Kills runs at random moments, starts them again, and looks at what is left.

python -m tests.proof.chaos --kills 50 --seed 0          # on disk
python -m tests.proof.chaos --kills 50 --seed 0 --s3     # on an S3 server of its own
python -m tests.proof.chaos --kills 50 --seed 0 --layout webdataset

Every round starts the same command. Whenever so many more shards are done as were drawn from the
seed, what was drawn from the seed is killed with SIGKILL: a worker, all workers, the run, its
Prefect server, or all of these at once, until the run is dead or has ended. After each round the
results are compared with the ledger; a job that has ended is compared with one that was never
interrupted, and begun anew, or gone on with after some of its sources have been replaced, and the
labels of others corrected.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.server import prefect_api
from pipeline.errors import RequestError
from pipeline.job import FOLDERS
from pipeline.ledger import Ledger
from pipeline.storage import Storage
from pipeline.url import join
from pipeline.verify import verify
from tests.conftest import write_pack, write_photos
from tests.pipeline.runs import TIMES, ledger_of
from tests.pipeline.servers import s3_bucket
from tests.processes import RESTYLE, command_of, family, is_running, kill, workers_of

ROWS, SHARD = 160, 4
# What is killed; of what does not end the run there is more, as a run takes long to start.
TARGETS = ("worker", "worker", "workers", "workers", "run", "all")

# Share of the rounds that have a Prefect server of their own, which can be killed.
OWN_SERVER = 0.3

# Of the jobs that have ended, how many are gone on with after so many photos have been replaced,
# and the labels of so many corrected.
GONE_ON_WITH, REPLACED, CORRECTED = 0.5, 24, 40

# Until the next kill at most so many shards are done, and so many seconds more pass; so many
# where it shall come before the first one.
SHARDS, SECONDS, AT_FIRST = 8, 0.4, 12.0

# Seconds in which a run has to do one more shard, or to end.
PATIENCE = 120

# Seconds in which what a run has started has to follow it.
ORPHANS = 20


@dataclass
class Figures:
    """What was done and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    jobs: int = 0
    replaced: int = 0
    corrected: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def _in_tar(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            yield member.name, content.read() if content else b""


def _in_table(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    for row in pq.read_table(pa.BufferReader(data)).to_pylist():
        image = row.pop("image")
        yield image["path"], image["bytes"] + json.dumps(row).encode()


# What is in a file among the results.
OPENED = {
    "files": lambda name, data: [(name, data)],
    "webdataset": _in_tar,
    "parquet": _in_table,
}


class Chaos:
    """One folder of photos, one command, and the results that it must come to."""

    def __init__(self, folder: Path, out: str, api: str, seed: int, layout: str) -> None:
        self.api = api
        self.layout = layout
        self.lot = random.Random(seed)
        self.figures = Figures()
        self.out, self.reference = join(out, "out"), join(out, "reference")
        self.ledger = Ledger(Storage(), self.out)
        self.source, self.pack = folder / "photos", folder / "small.safetensors"
        self._make_inputs()
        self.committed: dict[str, str] = {}  # what this job has finished
        self.before: dict[str, str] = {}  # what it began with
        self.replaced = 0
        self.run_reference()

    def run_reference(self) -> None:
        """See what the job comes to without interruption."""
        with self.started(self.reference, own_server=False) as (child, words):
            assert child.wait() == 0, words()
        self.expected = self.contents(self.reference)

    def _make_inputs(self) -> None:
        write_pack(self.pack, "red")
        write_photos(self.source, ROWS, size=500)
        (self.source / "007.jpg").write_bytes(b"no image")
        self.labels = [f"label {number}" for number in range(ROWS)]
        self._write_manifest()

    def _write_manifest(self) -> None:
        rows = [f"{number:03d}.jpg,{label}" for number, label in enumerate(self.labels)]
        (self.source / "m.csv").write_text("\n".join(["uri,label", *rows]))

    def command(self, out: str) -> list[str]:
        """What a user would type."""
        return [
            *RESTYLE, "run", str(self.source / "m.csv"), "--out", out, "--style", "red",
            "--pack", str(self.pack), "--shard-size", str(SHARD), "--workers", "2",
            "--format", "png", "--layout", self.layout,
        ]  # fmt: skip

    @contextmanager
    def started(
        self, out: str, own_server: bool
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
        """A run, and how to read what it said; nothing of it is left afterwards."""
        api = {} if own_server else {"PREFECT_API_URL": self.api}
        with tempfile.TemporaryFile("w+") as words:
            child = subprocess.Popen(
                self.command(out), stdout=words, stderr=words, process_group=0,
                env=os.environ | api,
            )  # fmt: skip

            def said() -> str:
                words.seek(0)
                return words.read()

            try:
                yield child, said
            finally:
                kill(family(child.pid))
                child.wait()

    def chosen(self, run: int, target: str) -> list[int]:
        """What there is of the target at this moment."""
        everyone = family(run)
        workers = sorted(workers_of(run))
        return {
            "worker": self.lot.sample(workers, min(1, len(workers))),
            "workers": workers,
            "run": [run],
            "server": [pid for pid in everyone if "runpy" in command_of(pid)],
            "all": everyone,
        }[target]

    def round(self) -> None:
        """Run, kill, look."""
        own_server = self.lot.random() < OWN_SERVER
        killed: list[str] = []
        everyone: list[int] = []
        with self.started(self.out, own_server) as (child, words):
            while self.wait_for_a_moment(child):
                target = self.lot.choice((*TARGETS, "server") if own_server else TARGETS)
                everyone = family(child.pid)
                if chosen := self.chosen(child.pid, target):
                    kill(chosen)
                    killed.append(target)
                if target in ("run", "all"):
                    break
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            if child.poll() is None:
                self.problem(f"hung after the loss of {killed}: {words()[-500:]}")
            code = child.poll()
        self.wait_for_orphans(everyone)
        self.figures.kills.update(killed)
        self.figures.rounds += 1
        self.figures.endings[f"exit code {code}"] += 1
        print(f"{', '.join(killed) or 'nothing'} killed: exit code {code}", file=sys.stderr)
        self.look()
        if code == 0:
            self.compare()

    def wait_for_orphans(self, everyone: list[int]) -> None:
        """Whatever belonged to a run ends with it."""
        deadline = time.monotonic() + ORPHANS
        while left := [pid for pid in everyone if is_running(pid)]:
            if time.monotonic() > deadline:
                self.problem(f"outlived its run: {[command_of(pid)[:200] for pid in left]}")
                kill(left)
            time.sleep(0.1)

    def end(self) -> None:
        """Let the last job come to its end."""
        with self.started(self.out, own_server=False) as (child, words):
            code = child.wait()
        if code:
            self.problem(f"the last run ended with exit code {code}: {words()[-500:]}")
        self.look()
        self.compare()

    def wait_for_a_moment(self, run: subprocess.Popen[bytes]) -> bool:
        """Wait until something shall be killed; False if the run ended before, or hangs."""
        # Of a job that is gone on with all shards are there; so only time tells.
        shards = 0 if self.replaced else self.lot.randint(0, SHARDS)
        seconds = self.lot.uniform(0.0, SECONDS if shards else AT_FIRST)
        goal = self.done() + shards
        last, deadline = -1, 0.0
        while (done := self.done()) < goal:
            if done > last:
                last, deadline = done, time.monotonic() + PATIENCE
            if run.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
        return run.poll() is None

    def done(self) -> int:
        """How many shards are in the ledger."""
        return len(self.ledger.shards())

    def look(self) -> None:
        """What is in the ledger must be whole, and stay as it is."""
        try:
            verdict = verify(Storage(), self.out, lambda rows: None)
        except RequestError:
            return  # killed before it began
        for finding in verdict.wrong:
            if self.replaced and finding.kind == "damaged" and self.layout == "files":
                continue  # the new result is there, its row not yet
            self.problem(f"{finding.kind} {finding.path}: {finding.why}")
        now = self.parts()
        for shard, digest in self.committed.items():
            if now.get(shard) != digest:
                self.problem(f"the finished shard {shard} was done again")
        self.committed = {
            shard: digest for shard, digest in now.items() if digest != self.before.get(shard)
        }

    def parts(self) -> dict[str, str]:
        """Digest of each part of the ledger."""
        storage = Storage()
        digests = {}
        for shard in self.ledger.shards():
            data = storage.read_one(self.ledger.part_url(shard)) or b""
            digests[shard] = hashlib.sha256(data).hexdigest()
        return digests

    def compare(self) -> None:
        """A job that has ended must be what it would have been; the next one begins anew."""
        found = self.contents(self.out)
        for name in ("images", "ledger", "shards"):
            if found[name] != self.expected[name]:
                self.problem(f"{name} are not those of a run without interruption")
        if verify(Storage(), self.out, lambda rows: None).findings:
            self.problem("there are files that no row has made")
        if Storage().read_one(join(self.out, "_SUCCESS")) is None:
            self.problem("it does not say that it has ended")
        self.committed = {}
        self.figures.jobs += 1
        if self.lot.random() < GONE_ON_WITH:
            self.change_sources()
        else:
            Storage().delete(self.out)
            self.replaced = 0
        self.before = self.parts()

    def change_sources(self) -> None:
        """Put other photos where some were, and say something else of others."""
        from tests.conftest import jpeg

        self.replaced += 1
        for number in self.lot.sample(range(8, ROWS), REPLACED):
            photo = jpeg(500, 500, ROWS * self.replaced + number)
            (self.source / f"{number:03d}.jpg").write_bytes(photo)
        for number in self.lot.sample(range(8, ROWS), CORRECTED):
            self.labels[number] += "!"
        self._write_manifest()
        self.run_reference()
        self.figures.replaced += REPLACED
        self.figures.corrected += CORRECTED

    def contents(self, out: str) -> dict[str, Any]:
        """All of a job but for times."""
        # Where in a file a result lies depends on what was replaced when.
        places = [] if self.layout == "files" else ["output_uri", "output_offset"]
        return {
            "images": dict(self.results(out)),
            "ledger": ledger_of(out).drop_columns([*TIMES, *places]).to_pylist(),
            "shards": sorted(Ledger(Storage(), out).shards()),
        }

    def results(self, out: str) -> Iterator[tuple[str, str]]:
        """Name and digest of every file among the results, or in theirs."""
        folder = join(out, FOLDERS[self.layout])
        for name in Storage().names(folder):
            data = Storage().read_one(join(folder, name)) or b""
            for inner, content in OPENED[self.layout](name, data):
                yield inner, hashlib.sha256(content).hexdigest()

    def problem(self, text: str) -> None:
        """Keep it, and say it at once."""
        print(text, file=sys.stderr, flush=True)
        self.figures.problems.append(text)


def main() -> int:
    """Kill as often as asked for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--layout", choices=FOLDERS, default="files")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="restyle-chaos-"))
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    start = time.monotonic()
    try:
        with prefect_api() as address:
            out = s3_bucket() if options.s3 else str(folder)
            chaos = Chaos(folder, out, f"{address}/api", options.seed, options.layout)
            while chaos.figures.kills.total() < options.kills:
                chaos.round()
            chaos.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    chaos.figures.seconds = round(time.monotonic() - start, 1)
    print(json.dumps(vars(chaos.figures), indent=2))
    return 1 if chaos.figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
