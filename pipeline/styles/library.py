"""Where styles are found: the shipped pack, the user's own folder, a file, a folder or a URL."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.storage import Storage
from pipeline.styles.mix import parse_style, styles_in
from pipeline.styles.pack import CHECKPOINTS, SHIPPED, Pack, read_pack
from pipeline.url import absolute, join, redact_url, scheme_of

SUFFIXES = (".safetensors", *CHECKPOINTS)


def user_folder() -> Path:
    """The user's own packs: restyle/styles below XDG_DATA_HOME."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "restyle" / "styles"


def packs_at(place: str, storage: Storage) -> list[Pack]:
    """The packs at a place.

    Args:
        place: a pack, or a folder of packs; a path or a URL. Empty: the shipped pack and those
            of the user's folder.

    Raises:
        RequestError: there is none, or what is there is no pack.
    """
    if not place:
        return [read_pack(SHIPPED), *_packs_in(user_folder())]
    place = absolute(place)
    if scheme_of(place) == "file":
        path = Path(place)
        packs = _packs_in(path) if path.is_dir() else [read_pack(path)]
    elif place.endswith(SUFFIXES):
        packs = [read_pack(_fetched(place, storage))]
    else:
        names = [name for name in storage.names(place) if name.endswith(SUFFIXES)]
        packs = [read_pack(_fetched(join(place, name), storage)) for name in names]
    if not packs:
        raise RequestError(f"{redact_url(place)} has no style packs ({', '.join(SUFFIXES)})")
    return packs


def choose_pack(packs: Sequence[Pack], expression: str) -> Pack:
    """The first pack that has all styles of a style expression.

    Raises:
        RequestError: none has, or the expression is wrong.
    """
    for pack in packs:
        if styles_in(expression) <= set(pack.names):
            parse_style(expression, pack.names)
            return pack
    names = list(dict.fromkeys(name for pack in packs for name in pack.names))
    parse_style(expression, names)
    raise RequestError(
        f"the styles of '{expression}' are of different packs, which are different networks; take "
        "all from one"
    )


def _packs_in(folder: Path) -> list[Pack]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [read_pack(path) for path in files if path.suffix in SUFFIXES]


def _fetched(url: str, storage: Storage) -> Path:
    """A copy of the pack at ``url`` on this machine."""
    data = storage.read_one(url)
    if data is None:
        raise RequestError(f"no style pack at {redact_url(url)}")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(data).hexdigest()
    copy = Path(cache) / "restyle" / "packs" / digest[:16] / url.rsplit("/", 1)[-1]
    if not copy.exists():
        Storage().write({str(copy): data})
    return copy
