"""The command line, as a person uses it; nothing here needs Prefect."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli import main
from pipeline.job import Job
from tests.conftest import write_photos


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_help_needs_neither_torch_nor_prefect() -> None:
    code = (
        "import sys; from flows.cli import main; main(['--help']);"
        "print([name for name in ('torch', 'prefect', 'pyarrow', 'fsspec', 'asyncio')"
        " if name in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "run" in done.stdout
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{photos}", "--style", "red"], "--out: is required"),
        (["run", "{photos}", "--out", "{out}"], "--style: is required"),
        (["run", "--out", "{out}", "--style", "red"], "SOURCE"),
        (["run", "{photos}/none", "--out", "{out}", "--style", "red"], "does not exist"),
        (["run", "{photos}", "--out", "{out}", "--style", "rod"], "did you mean 'red'"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--size", "12y"], "--size"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--strength", "2"], "--strength"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--nosuch"], "--nosuch"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--pack", "no.safetensors"],
         "no style pack"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--storage-option", "token=x"],
         "AWS_ACCESS_KEY_ID"),
        (["run", "s3://id:hunter2@b/x", "--out", "{out}", "--style", "red"], "SOURCE: s3://b/x"),
        (["status", "{photos}"], "not the output folder"),
        (["status", "{photos}", "--storage-option", "secret=x"], "AWS_ACCESS_KEY_ID"),
        (["report", "{photos}"], "not the output folder"),
        (["run", "{photos}", "--config", "no.toml"], "no.toml"),
        (["run", "{photos}", "--config", "{photos}/000.jpg"], "000.jpg cannot be read: 'utf-8'"),
        (["run", "{photos}", "{photos}/b", "--out", "{out}", "--style", "red"], "wants quotes"),
        (["run", "", "--out", "{out}", "--style", "red"], "SOURCE: is empty"),
        (["run", "{photos}", "--out", "", "--style", "red"], "--out: is empty"),
        (["run", "{photos}", "--out", "{photos}/000.jpg", "--style", "red"], "is a file"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--seed", "9" * 20], "--seed"),
        (["run", "{photos}", "--out", "{out}", "--style", "red", "--max-seconds", "inf"],
         "--max-seconds"),
        (["schedule", "{photos}", "--out", "{out}", "--style", "wave", "--cron", "0 3 * * *",
          "--timezone", "Mars"], "--timezone Mars"),
        (["nosuch"], "nosuch"),
    ],
)  # fmt: skip
def test_a_wrong_request_ends_with_2_and_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    pack: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos, out = write_photos(tmp_path / "photos", 1), tmp_path / "out"
    given = [argument.format(photos=photos, out=out) for argument in arguments]
    if given[0] == "run" and "--pack" not in given:
        given += ["--pack", pack]
    assert main(given) == 2
    text = said(capsys)
    assert message in text
    assert text.startswith("restyle: ")
    assert "Traceback" not in text
    assert "hunter2" not in text
    assert not out.exists()


def test_all_wrong_options_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "x", "--out", "y", "--style", "red", "--size", "q", "--quality", "0"]) == 2
    text = said(capsys)
    assert "--size" in text
    assert "--quality" in text


def test_plan_tells_what_would_be_done_and_does_nothing(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--style", "red", "--pack", job.pack, "--size", "64", "--shard-size", "4"]
    assert main(["plan", job.source, "--out", job.out, *settings]) == 0
    text = said(capsys)
    assert "left to do   8" in text
    assert "shards       2 of up to 4 rows" in text
    assert not Path(job.out).exists()


@pytest.mark.parametrize("text", ["[run]\nstrength = 7", "run = 5", "[job]\nstyle = 'red'"])
def test_sections_of_a_config_file_are_refused(
    text: str, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "job.toml"
    config.write_text(text)
    command = ["plan", job.source, "--out", job.out, "--style", "red", "--pack", job.pack]
    assert main([*command, "--config", str(config)]) == 2
    assert "job.toml: '" in said(capsys)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("restyle")


def test_flags_win_over_the_config_file(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(job.source).parent / "job.toml"
    config.write_text(f'out = "{job.out}"\nstyle = "red"\nshard_size = 2\nlimit = 6\n'
                      f'pack = "{job.pack}"\n')  # fmt: skip
    assert main(["plan", job.source, "--config", str(config), "--limit", "3"]) == 0
    text = said(capsys)
    assert "left to do   3" in text
    assert "2 of up to 2 rows" in text


def test_styles_are_listed_and_shown(pack: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["styles", "list", "--pack", pack]) == 0
    assert said(capsys).split() == ["red", "green", "blue"]
    assert main(["styles", "show", "green", "--pack", pack]) == 0
    assert json.loads(said(capsys))["name"] == "green"
    assert main(["styles", "show", "purple", "--pack", pack]) == 2


def test_the_shipped_styles_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["styles", "list"]) == 0
    assert "Hokusai" in said(capsys)
