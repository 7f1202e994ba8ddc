"""The pages of docs/, as their tests read them.

Fenced blocks are done: ``sh`` and ``python`` are run, any other with a name after its kind is a
file of that name. A block ``output`` is what the block before it prints; in it … stands for
anything in a line, and for any lines where it is a line of its own. Indented blocks are for
reading.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))

FENCED = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the number of its first line."""

    line: int
    kind: str
    name: str
    text: str


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(page[: found.start()].count("\n") + 2, *found.groups())
        for found in FENCED.finditer(page)
    ]


def commands_of(page: str, fenced: bool) -> list[list[str]]:
    """The arguments of every restyle command in an indented block; or also in fenced ones."""
    texts = INDENTED.findall(FENCED.sub("", page))
    texts += [block.text for block in blocks_of(page)] if fenced else []
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.lstrip()[:8] == "restyle "]
    return [arguments for _, *arguments in words]


def says(expected: str, printed: str) -> bool:
    """Whether what was printed is what a block ``output`` says."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r" *\n"
        for line in expected.strip("\n").splitlines()
    ]
    return re.fullmatch("".join(lines), printed.strip("\n") + "\n") is not None
