"""A photo of 900 megapixels: the demo's samples over and over, each 3,000 pixels wide.

python -m tests.scale.huge FOLDER
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import cycle
from pathlib import Path

from PIL import Image, ImageOps

from flows.demo import write_samples

SIDE, TILE = 30_000, 3_000


def write_huge_photo(folder: Path) -> None:
    """FOLDER/huge.jpg."""
    with tempfile.TemporaryDirectory() as samples:
        write_samples(Path(samples))
        photos = [Image.open(path).convert("RGB") for path in sorted(Path(samples).iterdir())]
        tiles = cycle([ImageOps.fit(photo, (TILE, TILE)) for photo in photos])
    huge = Image.new("RGB", (SIDE, SIDE))
    for top in range(0, SIDE, TILE):
        for left in range(0, SIDE, TILE):
            huge.paste(next(tiles), (left, top))
    folder.mkdir(parents=True, exist_ok=True)
    huge.save(folder / "huge.jpg", quality=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write_huge_photo(parser.parse_args().folder)
