"""What most people do: one image at a time through Johnson's network, in float32.

As neural_style.py of the PyTorch examples does it, on all cores.

python usual_way.py PHOTOS OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pipeline.networks.johnson import JohnsonNet


def main(photos: str, out: str) -> None:
    """Stylize all photos in a folder."""
    network = JohnsonNet().eval()
    for path in sorted(Path(photos).iterdir()):
        photo = to_tensor(Image.open(path).convert("RGB"))[None]
        with torch.no_grad():
            result = network(photo)[0]
        pixels = result.mul(255).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(Path(out, path.name), quality=92)


if __name__ == "__main__":
    main(*sys.argv[1:])
