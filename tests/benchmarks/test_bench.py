"""The bench itself: what it prints is what the project promises to print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import main
from pipeline.bench import measure
from pipeline.styles.mix import Mix
from pipeline.styles.pack import find_pack
from pipeline.stylizer import Stylizer
from tests.conftest import open_image, write_photos
from tests.processes import RESTYLE

HERE = Path(__file__).parent


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*RESTYLE, "bench", "--count", "64", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.extra
def test_bench_prints_every_figure_and_restyle_is_many_times_faster_than_the_usual_way(
    tmp_path: Path,
) -> None:
    plot = tmp_path / "bench.svg"
    done = bench("--json", "--plot", str(plot), "--against", str(HERE / "usual_way.py"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    rates = [figures[name] for name in ("decode", "network", "encode")]
    assert figures["allowed"] <= min(rates)
    assert figures["limit"] == "network"
    assert figures["share"] == pytest.approx(figures["end_to_end"] / figures["allowed"])
    (usual,) = figures["rivals"]
    assert usual["name"] == "usual way"
    assert usual["ratio"] == pytest.approx(figures["end_to_end"] / usual["rate"])
    # What it is on a quiet machine is in the README; one that runs tests is not quiet.
    assert usual["ratio"] > 5
    texts = [node.text for node in ElementTree.parse(plot).iter() if node.tag.endswith("text")]
    assert {"network alone", "end to end", "usual way"} <= set(texts)


@pytest.mark.extra
def test_the_good_afternoon_does_the_same_as_restyle(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3, size=128)
    (tmp_path / "out").mkdir()
    command = [sys.executable, str(HERE / "good_afternoon.py"), str(photos), str(tmp_path / "out")]
    # Its results, not its speed: compiling takes longer than all the rest.
    subprocess.run(command, check=True, env=os.environ | {"TORCH_COMPILE_DISABLE": "1"})
    pack = find_pack("")
    stylizer = Stylizer(pack, "auto")
    # In bfloat16 theirs is rounded more often, the photo first of all.
    close = 1 if stylizer.dtype == torch.float32 else 3
    for path in sorted(photos.iterdir()):
        photo = open_image(path.read_bytes())[None]
        ours = stylizer(photo, [Mix({pack.names[0]: 1.0})], [1.0])[0]
        theirs = open_image((tmp_path / "out" / path.name).read_bytes())
        # By their encoder: two differ by more than what they are compared for.
        Image.fromarray(ours).save(tmp_path / "ours.jpg", quality=92)
        ours = open_image((tmp_path / "ours.jpg").read_bytes())
        assert np.abs(ours.astype(int) - theirs).mean() < close


def test_files_that_are_no_photos_are_passed_over(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    (photos / "0.jpg").write_bytes(b"<html>")

    def tell(what: str) -> None:
        if what == "decode":  # they have been read
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(str(photos), 1, [], tell)


def test_a_folder_of_bad_photos_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.jpg").write_bytes(b"<html>")
    assert main(["bench", "--images", str(tmp_path)]) == 2
    assert "none of the photos can be read" in capsys.readouterr().err


@pytest.mark.parametrize("plot", ["missing/x.svg", "."])
def test_a_plot_that_cannot_be_written_is_told_at_once(
    plot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--images", "none", "--plot", plot]) == 2
    assert f"--plot {plot}: " in capsys.readouterr().err


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such luck')")
    done = bench("--against", str(script))
    assert done.returncode == 2
    assert "broken.py has failed: no such luck" in done.stderr
    gone = bench("--against", str(tmp_path / "gone.py"))
    assert gone.returncode == 2
    assert "gone.py: there is no such file" in gone.stderr
