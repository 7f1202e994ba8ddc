"""Paintings: read, and known by the statistics of their features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.codec import Pixels, decode
from pipeline.errors import RequestError, RowError
from pipeline.stylizer import MIN_SIDE
from pipeline.training.content import MAX_PIXELS


def read_painting(path: str, size: int, scales: int = 1) -> Pixels:
    """A painting with its longer side scaled to ``size``, (H, W, 3) uint8.

    Args:
        scales: sizes at which it will be looked at, each half the last.

    Raises:
        RequestError: it cannot be read, is too narrow, or is of one colour.
    """
    try:
        pixels = decode(Path(path).expanduser().read_bytes(), None, MAX_PIXELS).pixels
    except (OSError, RowError) as error:
        raise RequestError(f"{path} cannot be read as an image: {error}") from error
    image = Image.fromarray(pixels)
    scale = size / max(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    least = MIN_SIDE * 2 ** (scales - 1)
    if min(shape) < least:
        raise RequestError(
            f"{path} is {image.width}x{image.height}: scaled to {size} pixels its shorter side is "
            f"below {least}; cut it, or give a larger --style-size"
        )
    scaled = np.array(image.resize(shape, Image.Resampling.LANCZOS))
    if not np.ptp(scaled, axis=(0, 1)).any():
        raise RequestError(f"{path} is of one colour, which is no style; give a painting")
    return scaled


def as_input(images: Pixels, device: torch.device) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in 0..1, channels last."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.permute(0, 3, 1, 2).float() / 255.0
