"""Colour, apart from how bright it is."""

from __future__ import annotations

import torch
from torch import Tensor

# ITU-R BT.601, as in JPEG.
LUMA = (0.299, 0.587, 0.114)


def luminance(images: Tensor) -> Tensor:
    """(B, 3, H, W) RGB -> (B, 1, H, W)."""
    red, green, blue = torch.split(images, 1, dim=1)
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]


def with_colour_of(photos: Tensor, styled: Tensor) -> Tensor:
    """The luminance of ``styled`` with the chroma of ``photos``.

    Luminance-only transfer (Gatys et al. 2016, "Preserving Color in Neural Artistic Style
    Transfer", sec. 4): adding the same to all three channels changes the luminance alone.

    Args:
        photos, styled: (B, 3, H, W), RGB in 0..1. The result is clamped to that, too.
    """
    return (photos + luminance(styled) - luminance(photos)).clamp_(0.0, 1.0)
