"""The messages on the page of troubleshooting are those of the source."""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import DOCS, ROOT


def texts_of(source: str) -> Iterator[str]:
    """All texts in a module, with … where something is filled in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield "".join(map(str, parts)).replace("{}", "…")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SAID = {
    text
    for folder in ("pipeline", "tasks", "flows")
    for path in (ROOT / folder).rglob("*.py")
    for text in texts_of(path.read_text())
} | {os.strerror(errno.ENOSPC)}

PAGE = (DOCS / "troubleshooting.md").read_text()


@pytest.mark.parametrize("message", re.findall(r"^\| `(.+?)` \|", PAGE, re.MULTILINE))
def test_a_message_is_one_that_restyle_says(message: str) -> None:
    assert message in SAID


def test_texts_have_a_sign_where_something_is_filled_in() -> None:
    source = "f'row {number:,} of {name}, ' f'{{}}: ' 'why'"
    assert next(texts_of(source)) == "row … of …, …: why"
