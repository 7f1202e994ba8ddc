"""Preview sheets: what the styles make of some photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
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
    size = (photos.shape[2], photos.shape[1])
    rows = [np.concatenate([np.full_like(photos[0], 255), *photos], axis=1)]
    for painting, mix in zip(paintings, mixes, strict=True):
        styled = network(given, mix[None]).clamp(0, 1).mul(255).round().to(torch.uint8)
        results = styled.permute(0, 2, 3, 1).cpu().numpy()
        middle = ImageOps.fit(Image.fromarray(painting), size, Image.Resampling.LANCZOS)
        rows.append(np.concatenate([np.asarray(middle), *results], axis=1))
    return Image.fromarray(np.concatenate(rows))
