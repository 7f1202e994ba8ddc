"""The bench itself: what it prints is what the project promises to print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from flows.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "bench", "--count", "64", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_bench_prints_every_figure_and_restyle_is_many_times_faster_than_the_usual_way(
    tmp_path: Path,
) -> None:
    scripts = [str(HERE / name) for name in ("usual_way.py", "good_afternoon.py")]
    plot = tmp_path / "bench.svg"
    done = bench("--json", "--plot", str(plot), "--against", scripts[0], "--against", scripts[1])
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    rates = [figures[name] for name in ("decode", "network", "encode")]
    assert figures["allowed"] <= min(rates)
    assert figures["limit"] == "network"
    assert figures["share"] == pytest.approx(figures["end_to_end"] / figures["allowed"])
    usual, good = figures["rivals"]
    assert (usual["name"], good["name"]) == ("usual way", "good afternoon")
    for rival in (usual, good):
        assert rival["ratio"] == pytest.approx(figures["end_to_end"] / rival["rate"])
    # What it is on a quiet machine is in the README; one that runs tests is not quiet.
    assert usual["ratio"] > 5
    assert good["rate"] > usual["rate"]
    texts = [node.text for node in ElementTree.parse(plot).iter() if node.tag.endswith("text")]
    assert {"network alone", "end to end", "usual way", "good afternoon"} <= set(texts)


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such luck')")
    done = bench("--against", str(script))
    assert done.returncode == 2
    assert "broken.py has failed: no such luck" in done.stderr
    gone = bench("--against", str(tmp_path / "gone.py"))
    assert gone.returncode == 2
    assert "gone.py: there is no such file" in gone.stderr
