"""What Numba compiles is kept, and what is kept may be damaged."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from numba.core.caching import IndexDataCacheFile

SOURCE = """
from pipeline.networks.compiled import compiled

@compiled
def twice(x):
    return x * 2
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "doubling.py"
    path.write_text(SOURCE)
    return path


def begun(source: Path) -> ModuleType:
    """The module, as a process that begins has it."""
    spec = importlib.util.spec_from_file_location("doubling", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(source: Path, suffix: str) -> list[Path]:
    return sorted((source.parent / "__pycache__").glob(f"*.{suffix}"))


def test_what_is_compiled_is_kept(source: Path) -> None:
    assert begun(source).twice(3) == 6
    again = begun(source)
    assert again.twice(3) == 6
    assert sum(again.twice.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
@pytest.mark.parametrize("content", [b"", b"half of it"])
def test_a_damaged_file_is_made_anew(source: Path, suffix: str, content: bytes) -> None:
    begun(source).twice(3)
    for path in kept(source, suffix):
        path.write_bytes(content)
    assert begun(source).twice(3) == 6
    again = begun(source)
    assert again.twice(3) == 6
    assert sum(again.twice.stats.cache_hits.values()) == 1


def test_code_for_other_numbers_is_not_taken(source: Path) -> None:
    module = begun(source)
    module.twice(3)
    (whole,) = kept(source, "nbc")
    module.twice(1.5)
    (other,) = set(kept(source, "nbc")) - {whole}
    shutil.copy(other, whole)
    assert begun(source).twice(3) == 6


def test_a_full_disk_keeps_nothing_and_stops_nobody(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    assert begun(source).twice(3) == 6
    assert not kept(source, "nbc")


def test_without_a_home_nothing_is_written_to_the_current_folder(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    module = begun(source)
    assert module.twice(3) == 6
    assert not kept(source, "nbc")


def test_where_compiling_is_forbidden_torch_does_it() -> None:
    code = """
import torch
from pipeline.networks import eager, inference
assert inference._steps(torch.device("cpu"), torch.float32) is eager
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert "NUMBA_DISABLE_JIT is set" in done.stderr
