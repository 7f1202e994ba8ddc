"""Folders on this machine to write in."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main
from pipeline.errors import RequestError
from pipeline.folder import make_folder


def test_a_folder_is_made_with_nothing_in_it(tmp_path: Path) -> None:
    for _ in range(2):
        assert make_folder(f"{tmp_path}/a/b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "/proc"])
def test_what_is_no_folder_to_write_in_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=f"{place} is no folder to write in: "):
        make_folder(str(tmp_path / place))


@pytest.mark.parametrize(
    ("out", "said"),
    [("file", "file/photos is no folder to write in"), ("s3://me:key@b/out", "s3://b/out")],
)
def test_the_demo_wants_a_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["demo", out]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
