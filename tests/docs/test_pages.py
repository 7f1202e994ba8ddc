"""What the pages of docs/ say to do is done, and what they say is printed is compared."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli import app
from tests.conftest import jpeg
from tests.docs.pages import DOCS, PAGES, ROOT, Block, blocks_of, commands_of, says
from tests.pipeline.servers import s3_environment
from tests.processes import RESTYLE

# Of the pages whose blocks are done; those of the others want a cluster, a cloud or a night.
DONE = ("first-run", "manifests", "ledger", "training-data")
DONE_TOO = ("s3", "training", "troubleshooting")  # in make test-all


class Reader:
    """Somebody who does what a page says, in a folder, with an environment.

    Args:
        meant: what stands here for addresses and files that a page speaks of.
    """

    def __init__(self, folder: Path, environment: dict[str, str], meant: dict[str, str]) -> None:
        self._folder, self._meant = folder, meant
        self._environment = environment
        self._names: dict[str, Any] = {}

    def do(self, block: Block) -> str:
        """What is printed, if anything is done."""
        text = block.text
        for said, is_meant in self._meant.items():
            text = text.replace(said, is_meant)
        if block.kind == "sh":
            return self._run(text)
        if block.kind == "python":
            return self._execute(text)
        if block.name:
            name = block.name.replace("~", self._environment["HOME"])
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_text(text)
        return ""

    def _run(self, script: str) -> str:
        exported = self._folder.parent / "environment"
        ended = subprocess.run(
            ["sh", "-e", "-c", f"{script}\nenv -0 > {shlex.quote(str(exported))}"],
            cwd=self._folder, env=self._environment, text=True, timeout=300, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert ended.returncode == 0, f"{script}\nended with {ended.returncode}:\n{ended.stdout}"
        entries = exported.read_text().rstrip("\0").split("\0")
        self._environment = dict(entry.split("=", 1) for entry in entries)
        return ended.stdout

    def _execute(self, code: str) -> str:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.chdir(self._folder)
            for name, value in self._environment.items():
                patch.setenv(name, value)
            exec(code, self._names)
        return printed.getvalue()


@pytest.fixture
def reader(tmp_path: Path, prefect: str, s3_server: str, small_features: str) -> Iterator[Reader]:
    """A reader with six photos, a painting, and the photos once more in a bucket."""
    import boto3
    from s3fs import S3FileSystem

    folder, home, programs = tmp_path / "work", tmp_path / "home", tmp_path / "bin"
    for each in (folder / "photos", home, programs):
        each.mkdir(parents=True)
    restyle = programs / "restyle"
    restyle.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.join(RESTYLE)} "$@"\n')
    restyle.chmod(0o755)
    names = ("beach", "boat", "cat", "dog", "lake", "tree")
    photos = {f"photos/{name}.jpg": jpeg(96, 80, seed) for seed, name in enumerate(names)}
    for name, photo in photos.items():
        (folder / name).write_bytes(photo)
    (folder / "painting.jpg").write_bytes(jpeg(160, 140, seed=9))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(s3_server).items():
            patch.setenv(name, value)
        bucket = boto3.resource("s3").create_bucket(Bucket="bucket")
    for name, photo in photos.items():
        bucket.put_object(Key=name, Body=photo)
    S3FileSystem.clear_instance_cache()
    environment = os.environ | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PREFECT_API_URL": prefect,
    }
    meant = {"http://127.0.0.1:9000": s3_server, "--features vgg16": f"--features {small_features}"}
    yield Reader(folder, environment, meant)
    bucket.objects.delete()
    bucket.delete()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*DONE, *(pytest.param(name, marks=pytest.mark.extra) for name in DONE_TOO)]
)
def test_what_a_page_says_can_be_done(name: str, reader: Reader) -> None:
    printed = ""
    for block in blocks_of((DOCS / f"{name}.md").read_text()):
        if block.kind == "output":
            where = f"docs/{name}.md, line {block.line}"
            assert says(block.text, printed), f"{where} says\n{block.text}\nbut it is\n{printed}"
        else:
            printed = reader.do(block)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_command_on_a_page_is_one_that_restyle_takes(page: Path) -> None:
    # What is done anyway need not be looked at, and may have more of the shell in it.
    for arguments in commands_of(page.read_text(), fenced=page.stem not in DONE + DONE_TOO):
        app.parse_args(arguments, exit_on_error=False, print_error=False)


def test_commands_are_found_in_all_kinds_of_blocks() -> None:
    page = "    restyle status a\n\nso\n\n```sh\nrestyle plan b \\\n  --out c # d\n```\n"
    assert commands_of(page, fenced=False) == [["status", "a"]]
    assert commands_of(page, fenced=True) == [["status", "a"], ["plan", "b", "--out", "c"]]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a … c", "a b c\n", True),
        ("a … c", "a b d\n", False),
        ("a", "a\nb\n", False),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…", "a\n", True),
        ("b (1)", "b (1)   \n", True),
    ],
)
def test_printed_is_what_is_said(expected: str, printed: str, same: bool) -> None:
    assert says(expected, printed) is same


def test_the_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in PAGES if f"]({page.name})" not in index] == ["README.md"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
