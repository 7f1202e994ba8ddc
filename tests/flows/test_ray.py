"""``restyle run --runner ray`` on a cluster of two nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage import Storage
from pipeline.verify import verify
from tests.conftest import write_photos
from tests.pipeline.runs import ledger_of
from tests.processes import RESTYLE

ROWS = 80
ALONE = ["unshare", "--map-root-user", "--net"]


def can_be_alone() -> bool:
    """Whether a process may have a network of its own, with loopback in it."""
    try:
        return not subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], check=False).returncode
    except FileNotFoundError:
        return False


@pytest.mark.extra
@pytest.mark.skipif(not can_be_alone(), reason="needs a network namespace of its own")
@pytest.mark.parametrize("layout", ["files", "webdataset"])
def test_a_node_that_dies_costs_only_its_shards_in_flight(
    tmp_path: Path, pack: str, layout: str
) -> None:
    out = tmp_path / "out"
    photos = write_photos(tmp_path / "photos", ROWS, size=700)
    command = [
        *RESTYLE, "run", str(photos), "--out", str(out), "--style", "red", "--pack", pack,
        "--shard-size", "4", "--format", "png", "--layout", layout, "--runner", "ray",
        "--device", "cpu",
    ]  # fmt: skip
    nodes = subprocess.run(
        [*ALONE, sys.executable, "-m", "tests.flows.two_nodes", str(out), *command],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert nodes.returncode == 0, nodes.stderr
    told = json.loads(nodes.stdout.splitlines()[-1])
    assert told["exit"] == 0, told["said"]
    assert told["shards before the kill"] < ROWS / 4
    assert re.search(r"NodeDied|WorkerCrashed|node", told["said"]), told["said"]
    ledger = ledger_of(out)
    assert ledger.column("status").to_pylist() == ["done"] * ROWS
    assert len(set(ledger.column("id").to_pylist())) == ROWS
    assert not verify(Storage(), str(out), lambda rows: None).findings
