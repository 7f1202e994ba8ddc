"""The bench itself: what it prints is what the project promises to print."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_bench_prints_every_figure_and_restyle_is_many_times_faster_than_the_usual_way() -> None:
    code = "import sys; from flows.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "--json", "--count", "64"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(done.stdout)
    for name in ("network", "decode", "encode", "end_to_end", "usual_way"):
        assert figures[name] > 0
    assert figures["ratio"] == pytest.approx(figures["end_to_end"] / figures["usual_way"])
    # What it is on a quiet machine is in the README; one that runs tests is not quiet.
    assert figures["ratio"] > 5
