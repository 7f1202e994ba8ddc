"""Styles from elsewhere: checked, tried on a sample photo, and put where styles are found."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.codec import decode, encode
from pipeline.errors import RequestError
from pipeline.storage import Storage
from pipeline.styles.library import packs_at, user_folder
from pipeline.styles.mix import Mix, check_style_name
from pipeline.styles.pack import Pack, copy_pack, read_pack
from pipeline.stylizer import Stylizer
from pipeline.url import absolute, join, redact_url

# Chelsea the cat, by Stéfan van der Walt, CC0.
SAMPLE = Path(__file__).parent / "sample.jpg"
SAMPLE_PIXELS = 1_000_000

# A result whose pixels differ less than this is a flat area: no network does that to a photo.
LEAST_DEVIATION = 2.0


@dataclass(frozen=True)
class Added:
    """A pack as it was added. place, sheet: where it and its picture are."""

    pack: Pack
    place: str
    sheet: str


def add_pack(file: Path, to: str, said: dict[str, Any], storage: Storage) -> Added:
    """Add the pack or checkpoint ``file`` to a folder of packs.

    Args:
        to: path or URL of the folder; empty: the user's own.
        said: fields of the card, if there is one style; ``name`` among them.

    Raises:
        RequestError: it is no pack, does not work, or its names are taken, or those of its files.
    """
    pack = read_pack(file)
    if said and len(pack.cards) > 1:
        raise RequestError(f"{file} has {len(pack.cards)} styles, whose cards speak for themselves")
    cards = [replace(card, **said) for card in pack.cards]
    for card in cards:
        try:
            check_style_name(card.name)
        except ValueError as error:
            raise RequestError(f"{error}; give --name") from error
        _check_free(card.name, to, storage)
    folder = absolute(to) if to else str(user_folder())
    stem = cards[0].name if len(cards) == 1 else file.stem
    place, picture = join(folder, f"{stem}.safetensors"), join(folder, f"{stem}.png")
    there = storage.names(folder)
    for path in (place, picture):
        if path.rsplit("/", 1)[-1] in there:
            what_to_do = "give --name" if len(cards) == 1 else f"rename {file}"
            raise RequestError(f"there is {redact_url(path)} already; {what_to_do}")
    sheet = _tried(pack)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / f"{stem}.safetensors"
        copy_pack(pack, copy, cards)
        storage.write({place: copy.read_bytes(), picture: sheet})
    return Added(replace(pack, cards=tuple(cards)), place, picture)


def _check_free(name: str, to: str, storage: Storage) -> None:
    try:
        packs = packs_at(to, storage)
    except RequestError:  # a new folder
        return
    for pack in packs:
        if name in pack.names:
            raise RequestError(
                f"there is a style '{name}' in {pack.path.name} already; give --name"
            )


def _tried(pack: Pack) -> bytes:
    """The sample photo and what each style makes of it, as a PNG.

    Raises:
        RequestError: a style makes nothing of it.
    """
    photo = decode(SAMPLE.read_bytes(), None, SAMPLE_PIXELS).pixels
    stylizer = Stylizer(pack, "cpu", "fp32")
    shown = [photo]
    for card in pack.cards:
        (result,) = stylizer(photo[None], [Mix({card.name: 1.0})], [1.0])
        if result.std() < LEAST_DEVIATION:
            raise RequestError(
                f"{pack.path}: '{card.name}' makes a photo one flat area; the network is not "
                "trained, or is another one"
            )
        shown.append(result)
    return encode(np.concatenate(shown, axis=1), "png", 0)
