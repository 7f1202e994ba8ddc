"""The steps between the convolutions of FastInference, in torch: for every device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.networks.norm import conditional_instance_norm

# Of every so many rows and columns of a photo one is looked at for its level.
LEVEL_STEP = 8


def entered(photos: Tensor, border: int, dtype: torch.dtype) -> Tensor:
    """What the first convolution is given.

    Args:
        photos: (B, 3, H, W) uint8.

    Returns:
        Of (B, 3, H + 2 border, W + 2 border), less the photo's level, with a border that reflects
        it, ``pairs``.
    """
    x = bordered(photos, border, dtype)
    inside(x, border).copy_(photos)
    return pairs(lower_(reflect_(x, border), level_of(photos)))


def ready(styles: Tensor) -> Tensor:
    """Styles, (B, row length) float32, as they are taken by the steps, in parts."""
    return styles


def rectified(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalized and rectified, with a border: (B, C, H, W) -> (B, C, H + 2, W + 2).

    Args:
        scale, shift: (B, C) or (1, C), float32, of the normalization.
    """
    result = bordered(x, 1, x.dtype)
    torch.clamp_min(conditional_instance_norm(x, scale, shift), 0, out=inside(result, 1))
    return reflect_(result, 1)


def add_(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``x``, (B, C, H + 2, W + 2), with ``y``, (B, C, H, W), normalized and added within."""
    inside(x, 1).add_(conditional_instance_norm(y, scale, shift))
    return reflect_(x, 1)


def raised(windows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """As ``rectified``, of ``phases(windows)``."""
    return rectified(phases(windows), scale, shift)


# Of the values of a strip: the mean of each channel, the sum of squares around it, their number.
# Not tensors: small ones that stay, between large ones that go, leave holes in the heap, which
# came to 5 GB with an image of 900 megapixels.
Moments = tuple[list[float], list[float], int]


def entered_rows(photos: Tensor, level: Tensor, border: int, dtype: torch.dtype) -> Tensor:
    """As ``entered``, of some rows of a photo, and with a border on the left and right alone.

    Args:
        level: of all of the photo, (1, 3, 1, 1) float32.
    """
    x = photos.to(dtype, memory_format=torch.channels_last)
    return pairs(edged(lower_(x, level), border))


def moments(x: Tensor) -> Moments:
    """Of a strip, (1, C, H, W)."""
    x = x.float()
    mean = x.mean((0, 2, 3), keepdim=True)
    squares = (x - mean).square_().sum((0, 2, 3))
    return mean.flatten().tolist(), squares.tolist(), x[0, 0].numel()


def rectified_rows(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """As ``rectified``, of a strip, and with a border on the left and right alone.

    Args:
        slope, offset: (C,) float32, what normalizing multiplies with and adds.
    """
    normal = torch.addcmul(_planes(offset), x.float(), _planes(slope))
    return edged(normal.clamp_min_(0).to(x.dtype))


def add_rows_(x: Tensor, y: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """``x`` with ``y`` normalized and added, two strips, (1, C, H, W)."""
    return x.copy_(x.float() + torch.addcmul(_planes(offset), y.float(), _planes(slope)))


def edged(x: Tensor, width: int = 1, first: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W + 2 width), where ``x`` is continued on the left and right.

    Args:
        first: of its columns, to be put next to it: 1: reflected; 0: repeated, if ``width`` is 1.
    """
    batch, channels, height, breadth = x.shape
    result = empty((batch, channels, height, breadth + 2 * width), x)
    result[..., width:-width] = x
    for i in range(width):
        result[..., width - 1 - i] = x[..., first + i]
        result[..., i - width] = x[..., -1 - first - i]
    return result


def _planes(values: Tensor) -> Tensor:
    return values[:, None, None]


def level_of(photos: Tensor) -> Tensor:
    """About the mean of each channel, a whole number: (B, 3, H, W) uint8 -> (B, 3, 1, 1) float32.

    The first normalization takes away whatever is added to all of a photo, so it may as well be
    taken away before: the variance of a white page with little on it would be a small difference
    of large numbers, which torch's group_norm gets wrong for channels_last. What is left is a
    whole number again, which bfloat16 holds.
    """
    some = photos[:, :, ::LEVEL_STEP, ::LEVEL_STEP]
    return some.float().mean((2, 3), keepdim=True).round_()


def pairs(x: Tensor) -> Tensor:
    """(B, C, H, W), channels last -> (B, 2 C, H, W / 2), the same memory: two pixels as one."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).view(batch, height, width // 2, 2 * channels)
    return rows.permute(0, 3, 1, 2)


def lower_(x: Tensor, level: Tensor) -> Tensor:
    """Take ``level``, (B, C, 1, 1), away from ``x``, (B, C, H, W), channels last, in place."""
    batch, channels, height, width = x.shape
    # Pixel by pixel torch would take away three numbers at a time; so it is 8 times as fast.
    rows = x.permute(0, 2, 3, 1).view(batch, height, width * channels)
    rows.sub_(level.to(x.dtype).squeeze(3).transpose(1, 2).repeat(1, 1, width))
    return x


def phases(windows: Tensor) -> Tensor:
    """What a convolution ``at_small_size`` made, (B, 4 C, H + 1, W + 1), as (B, C, 2 H, 2 W)."""
    batch, channels, height, width = windows.shape
    channels, height, width = channels // 4, height - 1, width - 1
    result = empty((batch, channels, 2 * height, 2 * width), windows)
    for phase in range(4):
        down, right = divmod(phase, 2)
        result[:, :, down::2, right::2] = windows[
            :, phase * channels : (phase + 1) * channels, down:, right:
        ][:, :, :height, :width]
    return result


def pixel_shuffle(x: Tensor) -> Tensor:
    """(B, 4 C, H, W), ``phase_by_phase``, channels last -> (B, C, 2 H, 2 W).

    So ordered, what is side by side stays so, and on a CPU it is four times as fast as otherwise.
    """
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height, width, 2, channels // 2).transpose(2, 3)
    return rows.reshape(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def bordered(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Room for what is like ``x``, (B, C, H, W), with a border."""
    batch, channels, height, breadth = x.shape
    return empty((batch, channels, height + 2 * width, breadth + 2 * width), x, dtype)


def inside(x: Tensor, width: int) -> Tensor:
    """What is within a border."""
    return x[:, :, width:-width, width:-width]


def reflect_(x: Tensor, width: int) -> Tensor:
    """Make the border a reflection of what is within, the edge not repeated."""
    for distance in range(1, width + 1):
        _set_border_(x, width - distance, width + distance)
    return x


def replicate_(x: Tensor) -> Tensor:
    """Make the border, one pixel wide, what is next to it."""
    return _set_border_(x, 0, 1)


def _set_border_(x: Tensor, to: int, of: int) -> Tensor:
    """Copy the rows and columns that are number ``of`` from each side to number ``to``."""
    for dim in (2, 3):
        lines = x.movedim(dim, 0)
        last = len(lines) - 1
        lines[to :: last - 2 * to][:2] = lines[of :: last - 2 * of][:2]
    return x


def empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Room for (B, C, H, W), channels last, on the device of ``like``, and of its dtype if None."""
    return torch.empty(
        shape,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )
