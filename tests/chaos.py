"""Kills runs at random moments, starts them again, and looks at what is left.

python -m tests.chaos --kills 50 --seed 0          # on disk
python -m tests.chaos --kills 50 --seed 0 --s3     # on an S3 server of its own

Every round starts the same command. At a moment drawn from the seed, what was drawn from the seed
is killed with SIGKILL: a worker, all workers, the run, its Prefect server, or all of these at
once. After each round the results are compared with the ledger; a job that has ended is compared
with one that was never interrupted, and begun anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import RequestError
from pipeline.ledger import Ledger
from pipeline.storage import Storage, join
from pipeline.verify import verify
from tests.processes import command_of, family, workers_of

ROWS, SHARD = 160, 4
TARGETS = ("worker", "workers", "run", "server", "all")

# Seconds in which a run that lost something has to end.
PATIENCE = 180

# What may differ between two ledgers of one job.
TIMES = ("finished_at", "attempts")


@dataclass
class Figures:
    """What was done and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    jobs: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Chaos:
    """One folder of photos, one command, and the results that it must come to."""

    def __init__(self, folder: Path, out: str, seed: int) -> None:
        self.lot = random.Random(seed)
        self.figures = Figures()
        self.out, self.reference = join(out, "out"), join(out, "reference")
        self.source, self.pack = folder / "photos", folder / "small.safetensors"
        self._make_inputs()
        start = time.monotonic()
        code, said = self.run(self.reference, 0.0, "")
        assert code == 0, said
        self.typical = time.monotonic() - start
        self.expected = self.contents(self.reference)
        self.committed: dict[str, str] = {}

    def _make_inputs(self) -> None:
        import torch

        from pipeline.networks.fast import FastTransformNet
        from pipeline.styles.pack import Card, save_pack
        from tests.conftest import write_photos

        torch.manual_seed(1)
        network = FastTransformNet(1, half=8, quarter=8, blocks=1)
        save_pack(self.pack, network, [Card("red")])
        write_photos(self.source, ROWS, size=500)
        (self.source / "007.jpg").write_bytes(b"no image")

    def command(self, out: str) -> list[str]:
        """What a user would type."""
        return [
            sys.executable, "-c", "import sys; from flows.cli import main; sys.exit(main())",
            "run", str(self.source), "--out", out, "--style", "red", "--pack", str(self.pack),
            "--shard-size", str(SHARD), "--workers", "2", "--format", "png",
        ]  # fmt: skip

    def run(self, out: str, delay: float, target: str) -> tuple[int | None, str]:
        """Run once, killing ``target`` after ``delay``; exit code (None: it hung) and words."""
        with tempfile.TemporaryFile("w+") as words:
            child = subprocess.Popen(self.command(out), stdout=words, stderr=words, process_group=0)
            if target:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(delay)
                self.kill(child.pid, target)
            code: int | None = None
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(PATIENCE)
            for pid in family(child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.wait()
            words.seek(0)
            return code, words.read()

    def kill(self, run: int, target: str) -> None:
        """Kill what there is of it at this moment."""
        everyone = family(run)
        workers = sorted(workers_of(run))
        servers = [pid for pid in everyone if "runpy" in command_of(pid)]
        chosen = {
            "worker": self.lot.sample(workers, min(1, len(workers))),
            "workers": workers,
            "run": [run],
            "server": servers,
            "all": everyone,
        }[target]
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.figures.kills[target] += 1

    def round(self) -> None:
        """Run, kill, look."""
        target = self.lot.choice(TARGETS)
        code, said = self.run(self.out, self.lot.uniform(0.3, 1.1) * self.typical, target)
        self.figures.rounds += 1
        self.figures.endings[f"{target}: {'hung' if code is None else f'exit code {code}'}"] += 1
        if code is None:
            self.problem(f"hung after the loss of {target}: {said[-500:]}")
        self.look()
        if code == 0:
            self.compare()
            Storage().delete(self.out)
            self.committed = {}
            self.figures.jobs += 1

    def look(self) -> None:
        """What is in the ledger must be whole, and stay as it is."""
        try:
            verdict = verify(Storage(), self.out, lambda rows: None)
        except RequestError:
            return  # killed before it began
        for finding in verdict.wrong:
            self.problem(f"{finding.kind} {finding.path}: {finding.why}")
        ledger = Ledger(Storage(), self.out)
        now = {}
        for shard in ledger.shards():
            data = Storage().read_one(ledger.part_url(shard)) or b""
            now[shard] = hashlib.sha256(data).hexdigest()
        for shard, digest in self.committed.items():
            if now.get(shard) != digest:
                self.problem(f"the finished shard {shard} was done again")
        self.committed = now

    def compare(self) -> None:
        """A job that has ended must be what it would have been."""
        found = self.contents(self.out)
        for name in ("images", "ledger", "shards"):
            if found[name] != self.expected[name]:
                self.problem(f"{name} are not those of a run without interruption")
        if verify(Storage(), self.out, lambda rows: None).findings:
            self.problem("there are files that no row has made")
        if Storage().read_one(join(self.out, "_SUCCESS")) is None:
            self.problem("it does not say that it has ended")

    def contents(self, out: str) -> dict[str, Any]:
        """All of a job but for times."""
        dataset = Ledger(Storage(), out).dataset()
        assert dataset is not None
        table = dataset.to_table().drop_columns(list(TIMES)).sort_by("id")
        images = Storage().names(join(out, "images"))
        digests = {}
        for name in images:
            data = Storage().read_one(join(out, "images", name)) or b""
            digests[name] = hashlib.sha256(data).hexdigest()
        return {
            "images": digests,
            "ledger": table.to_pylist(),
            "shards": sorted(Ledger(Storage(), out).shards()),
        }

    def problem(self, text: str) -> None:
        """Keep it, and say it at once."""
        print(text, file=sys.stderr, flush=True)
        self.figures.problems.append(text)


def s3_server() -> str:
    """The URL of a bucket on a server in this process."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    boto3.client("s3").create_bucket(Bucket="chaos")
    return "s3://chaos"


def main() -> int:
    """Kill as often as asked for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="restyle-chaos-"))
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    start = time.monotonic()
    try:
        chaos = Chaos(folder, s3_server() if options.s3 else str(folder), options.seed)
        while chaos.figures.kills.total() < options.kills:
            chaos.round()
        while chaos.committed:  # the last job shall end, too
            chaos.run(chaos.out, 0.0, "")
            chaos.look()
            chaos.compare()
            chaos.figures.jobs += 1
            chaos.committed = {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    chaos.figures.seconds = round(time.monotonic() - start, 1)
    print(json.dumps(asdict(chaos.figures), indent=2))
    return 1 if chaos.figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
