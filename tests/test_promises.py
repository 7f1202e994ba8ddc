"""What the README promises is kept by tests that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.proof.promises import PROMISES

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize(("said", "file", "test"), PROMISES)
def test_every_promise_is_kept_by_a_test(said: str, file: str, test: str) -> None:
    assert said in README
    tests = ast.parse((ROOT / file).read_text()).body
    assert test in [one.name for one in tests if isinstance(one, ast.FunctionDef)]
