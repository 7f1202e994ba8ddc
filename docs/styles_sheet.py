"""Draws docs/styles.jpg: what every shipped style makes of six photos.

python docs/styles_sheet.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flows.demo import write_samples
from pipeline.codec import Pixels, decode
from pipeline.styles.mix import Mix
from pipeline.styles.pack import find_pack
from pipeline.stylizer import Stylizer

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "moon")
SIDE, TILE, LABEL, BLOCKS = 256, 112, 92, 2  # pixels, and how many columns of styles
MAX_PIXELS = 100_000_000


def main() -> None:
    """Draw and write the sheet."""
    pack = find_pack("")
    stylizer = Stylizer(pack, "cpu", "fp32")
    photos = read_photos()
    rows = [band("photo", photos)]
    for name in pack.names:
        mixes = [Mix({name: 1.0})] * len(photos)
        rows.append(band(name, stylizer(photos, mixes, [1.0] * len(photos))))
    per_block = -(-(len(rows) - 1) // BLOCKS)
    blocks = [
        np.concatenate(pad([rows[0], *rows[1 + first : 1 + first + per_block]], per_block + 1))
        for first in range(0, len(rows) - 1, per_block)
    ]
    sheet = Image.fromarray(np.concatenate(blocks, axis=1))
    sheet.save(Path(__file__).parent / "styles.jpg", quality=80, optimize=True)


def read_photos() -> Pixels:
    """The middle squares of the sample photos, (N, SIDE, SIDE, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder))
        files = [(Path(folder) / f"{name}.jpg").read_bytes() for name in PHOTOS]
    return np.stack([decode(data, (SIDE, SIDE), MAX_PIXELS).pixels for data in files])


def band(name: str, pictures: Pixels) -> Pixels:
    """A row of pictures with their name on the left."""
    label = Image.new("RGB", (LABEL, TILE), "white")
    font = ImageFont.load_default(size=15)
    ImageDraw.Draw(label).text((8, TILE // 2), name, "black", font, anchor="lm")
    tiles = [Image.fromarray(p).resize((TILE, TILE), Image.Resampling.LANCZOS) for p in pictures]
    return np.concatenate([np.asarray(tile) for tile in (label, *tiles)], axis=1)


def pad(rows: list[Pixels], count: int) -> list[Pixels]:
    """White rows below, so that there are ``count``."""
    return rows + [np.full_like(rows[0], 255)] * (count - len(rows))


if __name__ == "__main__":
    main()
