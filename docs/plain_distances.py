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
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.codec import Pixels
from pipeline.networks.features import load_features
from pipeline.styles.mix import Mix
from pipeline.styles.pack import find_pack
from pipeline.stylizer import Stylizer

SIZE, STYLE_SIDE, PHOTOS = (508, 336), 512, 8
STYLES = {"wave": "great_wave", "starry": "starry_night", "scream": "scream",
          "minotaur": "minotaur", "composition": "composition_vii"}  # fmt: skip


def main(paintings: Path, folder: Path, features: str, strength: float = 1.0) -> None:
    """Print a line for each of STYLES, means over the first PHOTOS photos of ``folder``."""
    network = load_features(features)

    def layers(pixels: Pixels) -> list[Tensor]:
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255.0
        with torch.inference_mode():
            found: list[Tensor] = network(x)
            return found

    stylizer = Stylizer(find_pack(""), "cpu", "fp32")
    photos = [fitted(path) for path in islice(sorted(folder.iterdir()), PHOTOS)]
    for style, name in STYLES.items():
        grams = [gram(layer) for layer in layers(painting(paintings / f"{name}.jpg"))]
        content, texture = [], []
        for photo in photos:
            result = layers(stylizer(photo[None], [Mix({style: 1.0})], [strength])[0])
            content.append(relative(result[3], layers(photo)[3]))
            texture.append(sum(relative(gram(a), b) for a, b in zip(result, grams, strict=True)))
        print(f"{style:12} content {np.mean(content):.2f}  Gram {np.mean(texture):.2f}")


def fitted(path: Path) -> Pixels:
    """A photo, its middle, scaled to SIZE."""
    image = Image.open(path).convert("RGB")
    return np.array(ImageOps.fit(image, SIZE, Image.Resampling.BICUBIC))


def painting(path: Path) -> Pixels:
    """A painting, its longer side STYLE_SIDE."""
    image = Image.open(path).convert("RGB")
    scale = STYLE_SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.array(image.resize(size, Image.Resampling.BICUBIC))


def gram(layer: Tensor) -> Tensor:
    """(1, C, H, W) -> (C, C), a mean over the pixels."""
    flat = layer[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Mean squared difference, of the mean square."""
    return float((ours - theirs).square().mean() / theirs.square().mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *map(float, sys.argv[4:]))
