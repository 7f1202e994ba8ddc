"""Preview sheets: what the styles make of some photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.codec import Pixels
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.johnson import JohnsonNet
from pipeline.training.paintings import as_input


@torch.no_grad()
def preview(
    network: FastTransformNet | JohnsonNet,
    mixes: Tensor,
    paintings: Sequence[Pixels],
    photos: Pixels,
) -> Image.Image:
    """A sheet: the photos above, then a row for each style with its painting on the left.

    Args:
        mixes: (P, styles), the styles. paintings: P times (H, W, 3) uint8.
        photos: (N, S, S, 3) uint8.
    """
    given = as_input(photos, mixes.device)
    rows = [np.concatenate([np.full_like(photos[0], 255), *photos], axis=1)]
    for painting, mix in zip(paintings, mixes, strict=True):
        styled = network(given, mix[None]).clamp(0, 1).mul(255).round().to(torch.uint8)
        results = styled.permute(0, 2, 3, 1).cpu().numpy()
        rows.append(np.concatenate([_square(painting, photos.shape[1]), *results], axis=1))
    return Image.fromarray(np.concatenate(rows))


def _square(painting: Pixels, side: int) -> Pixels:
    """The middle of a painting, scaled to a square."""
    height, width = painting.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) // 2, (height - edge) // 2
    middle = Image.fromarray(painting[top : top + edge, left : left + edge])
    return np.array(middle.resize((side, side), Image.Resampling.LANCZOS))
