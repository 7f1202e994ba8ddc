"""Plain content and Gram distances of the shipped styles, as papers about style transfer have them.

python docs/plain_distances.py PAINTINGS PHOTOS FEATURES [STRENGTH]

Content: Johnson et al. 2016, eq. 2, at relu4_1, relative to the photo's features. Gram: Gatys et
al. 2016, eq. 3 and 4, relu1_1 to relu5_1, relative to the painting's. FEATURES: a safetensors file
of a feature network with five layers.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.codec import Pixels, decode
from pipeline.networks.features import load_features
from pipeline.styles.mix import Mix
from pipeline.styles.pack import find_pack
from pipeline.stylizer import Stylizer
from pipeline.training.content import MAX_PIXELS
from pipeline.training.losses import relative, statistics
from pipeline.training.paintings import as_input, read_painting

SIZE, STYLE_SIDE, PHOTOS = (508, 336), 512, 8
STYLES = {"wave": "great_wave", "starry": "starry_night", "scream": "scream",
          "minotaur": "minotaur", "composition": "composition_vii"}  # fmt: skip


def main(paintings: Path, folder: Path, features: str, strength: float = 1.0) -> None:
    """Print a line for each of STYLES, means over the first PHOTOS photos of ``folder``."""
    network = load_features(features)

    def layers(pixels: Pixels) -> list[Tensor]:
        with torch.inference_mode():
            found: list[Tensor] = network(as_input(pixels[None], torch.device("cpu")))
            return found

    stylizer = Stylizer(find_pack(""), "cpu", "fp32")
    paths = islice(sorted(folder.iterdir()), PHOTOS)
    photos = [decode(path.read_bytes(), SIZE, MAX_PIXELS).pixels for path in paths]
    for style, name in STYLES.items():
        painting = layers(read_painting(str(paintings / f"{name}.jpg"), STYLE_SIDE))
        content, gram = [], []
        for photo in photos:
            result = layers(stylizer(photo[None], [Mix({style: 1.0})], [strength])[0])
            content.append(float(relative(result[3], layers(photo)[3])))
            gram.append(sum(map(gram_distance, result, painting)))
        print(f"{style:12} content {np.mean(content):.2f}  Gram {np.mean(gram):.2f}")


def gram_distance(ours: Tensor, theirs: Tensor) -> float:
    """Of one layer's activations, (1, C, H, W)."""
    return float(relative(statistics(ours).gram, statistics(theirs).gram))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
