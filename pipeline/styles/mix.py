"""What ``--style`` says: one style, a blend of styles, or one of several for each image."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import RequestError


@dataclass(frozen=True)
class Mix:
    """A blend: ``parts`` are style names with their weights, which sum to 1."""

    parts: Mapping[str, float]

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return next(iter(self.parts))
        return "+".join(f"{name}:{weight:g}" for name, weight in self.parts.items())


def parse_style(expression: str, names: Sequence[str]) -> list[Mix]:
    """The blends that a style expression offers, one of which each image gets.

    ``wave``: one style; ``wave:0.7+starry:0.3``: a blend, its weights scaled to sum to 1;
    ``wave,starry``: one of these for each image.

    Args:
        names: the styles there are.

    Raises:
        RequestError: an unknown name, or weights that are not positive numbers.
    """
    return [_parse_blend(choice, expression, names) for choice in expression.split(",")]


def styles_in(expression: str) -> set[str]:
    """The names that a style expression mentions."""
    parts = expression.replace("+", ",").split(",")
    return {part.partition(":")[0].strip() for part in parts}


def check_style_name(name: str) -> None:
    """Raise a ValueError if a style cannot be called ``name``."""
    if not re.fullmatch(r"[^\s,+:/\\]+", name):
        raise ValueError(f"'{name}' cannot name a style: it has one of , + : / \\ or a space")


def _parse_blend(choice: str, expression: str, names: Sequence[str]) -> Mix:
    parts: dict[str, float] = {}
    for part in choice.split("+"):
        name, _, weight = (piece.strip() for piece in part.partition(":"))
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise RequestError(f"unknown style '{name}': {hint}there are {', '.join(names)}")
        try:
            value = float(weight) if weight else 1.0
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise RequestError(f"style '{expression}': the weight of {name} must be above 0")
        parts[name] = parts.get(name, 0.0) + value
    total = sum(parts.values())
    return Mix({name: value / total for name, value in parts.items()})


def choose(mixes: Sequence[Mix], seed: int, row_id: str, variant: int) -> Mix:
    """One of ``mixes`` for an image: by seed and id alone, so never by its place in the job.

    Successive variants of an image get successive choices.
    """
    if len(mixes) == 1:
        return mixes[0]
    digest = hashlib.blake2b(f"{seed}:{row_id}".encode(), digest_size=8).digest()
    return mixes[(int.from_bytes(digest, "big") + variant) % len(mixes)]
