"""FastTransformNet as it is run: the same function of photos and styles, arranged for speed.

Where a network is as small as this one, convolutions are but half of the time. So activations lie
in the middle of tensors with room for the border that the next convolution wants, which are not
copied to be padded, and nothing is made at a size at which nothing is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks.fast import FastTransformNet, StyledConv
from pipeline.networks.norm import WHITE, conditional_instance_norm


@dataclass(frozen=True)
class Layer:
    """A convolution, and where a style has the scale and shift of the normalization after it."""

    weight: Tensor
    stride: int
    border: int  # rows and columns that the kernel wants on each side of what it is given
    scale: slice
    shift: slice

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution of what has its border already."""
        return F.conv2d(x, self.weight, stride=self.stride)


class FastInference:
    """A FastTransformNet with weights that are ready to be used.

    Args:
        network: float32, on the device.
        dtype: of the weights and activations. Styles stay float32.
    """

    def __init__(self, network: FastTransformNet, dtype: torch.dtype) -> None:
        def ready(weight: Tensor) -> Tensor:
            return weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)

        def layer(styled: StyledConv, weight: Tensor) -> Layer:
            stride = styled.conv.stride[0]
            return Layer(ready(weight), stride, styled.padding, styled.scale, styled.shift)

        def as_trained(styled: StyledConv) -> Layer:
            return layer(styled, styled.conv.weight)

        self.dtype = dtype
        self.stride = network.stride
        self.styles = network.styles.detach()
        # Its photos are 0 to 255: a power of two changes no digit of a weight.
        self.down1 = layer(network.down1, network.down1.conv.weight / WHITE)
        self.down2 = as_trained(network.down2)
        self.blocks = [(as_trained(one), as_trained(other)) for one, other in network.blocks()]
        self.up = layer(network.up, at_small_size(network.up.conv.weight.detach()))
        self._out = ready(phase_by_phase(network.out.weight))
        self._bias = None
        if network.out.bias is not None:
            self._bias = phase_by_phase(network.out.bias).detach().to(dtype)

    def __call__(self, photos: Tensor, mix: Tensor) -> Tensor:
        """Stylize a batch.

        Args:
            photos: (B, 3, H, W) uint8, RGB; H and W multiples of 4, at least 16.
            mix: (B, styles) or (1, styles), float32, how much of each style; a row sums to 1.
                One row for the whole batch is the faster way.

        Returns:
            (B, 3, H, W), RGB in 0..1, not clamped.
        """
        # Of the dtype that the normalization will have it in, all at once.
        style = (mix @ self.styles).to(self.dtype)

        def normalized(x: Tensor, layer: Layer) -> Tensor:
            return conditional_instance_norm(x, style[:, layer.scale], style[:, layer.shift])

        def rectified(x: Tensor, layer: Layer) -> Tensor:
            x = normalized(x, layer)
            padded = bordered(x, 1, self.dtype)
            rectify(x, inside(padded, 1))
            return reflect_(padded, 1)

        x = reflected(photos, self.down1.border, self.dtype)
        x = rectified(self.down1(lower_(x, level_of(photos))), self.down1)
        x = rectified(self.down2(x), self.down2)
        for first, second in self.blocks:
            y = rectified(first(x), first)
            inside(x, 1).add_(normalized(second(y), second))
            reflect_(x, 1)
        x = rectified(phases(self.up(replicate_(x))), self.up)
        return self.leave(x)

    def leave(self, x: Tensor) -> Tensor:
        """The last layer: activations with their border -> (B, 3, H, W)."""
        return pixel_shuffle(F.conv2d(x, self._out, self._bias))


def level_of(photos: Tensor) -> Tensor:
    """About the mean of each channel, a whole number: (B, 3, H, W) uint8 -> (B, 3, 1, 1) float32.

    The first normalization takes away whatever is added to all of a photo, so it may as well be
    taken away before: the variance of a white page with little on it would be a small difference
    of large numbers, which torch's group_norm gets wrong for channels_last. What is left is a
    whole number again, which bfloat16 holds.
    """
    return photos[:, :, ::8, ::8].float().mean((2, 3), keepdim=True).round_()


def lower_(x: Tensor, level: Tensor) -> Tensor:
    """Take ``level``, (B, C, 1, 1), away from ``x``, (B, C, H, W), channels last, in place."""
    batch, channels, height, width = x.shape
    # Pixel by pixel torch would take away three numbers at a time: row by row it is 8 times as fast.
    rows = x.permute(0, 2, 3, 1).view(batch, height, width * channels)
    rows.sub_(level.to(x.dtype).squeeze(3).transpose(1, 2).repeat(1, 1, width))
    return x


def at_small_size(weight: Tensor) -> Tensor:
    """(O, I, 3, 3), of what has been upsampled by 2 -> (4 O, I, 2, 2), of what has not.

    Upsampled to the nearest, two of the three rows under the kernel are the same one, and so are
    two of its columns: their weights can be added first. Of a window of 2x2 that makes four
    results, one for each phase of the pixel (Shi et al. 2016, "Is the deconvolution layer the
    same as a convolutional layer?"), and 4/9 of the multiply-adds.
    """

    def halves(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        before, here, after = weight.unbind(dim)
        return torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)

    return torch.cat([phase for half in halves(weight, 2) for phase in halves(half, 3)])


def phases(windows: Tensor) -> Tensor:
    """What a convolution ``at_small_size`` made, (B, 4 C, H + 1, W + 1), as (B, C, 2 H, 2 W)."""
    batch, channels, height, width = windows.shape
    channels, height, width = channels // 4, height - 1, width - 1
    result = _empty((batch, channels, 2 * height, 2 * width), windows)
    for phase in range(4):
        down, right = divmod(phase, 2)
        result[:, :, down::2, right::2] = windows[
            :, phase * channels : (phase + 1) * channels, down:, right:
        ][:, :, :height, :width]
    return result


def phase_by_phase(weight: Tensor) -> Tensor:
    """(4 C, ...) of a convolution before a pixel shuffle, the phases of a channel side by side ->
    the channels of a phase side by side.
    """
    return weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)


def pixel_shuffle(x: Tensor) -> Tensor:
    """(B, 4 C, H, W), ``phase_by_phase``, channels last -> (B, C, 2 H, 2 W).

    So ordered, what is side by side stays so, and on a CPU it is four times as fast as otherwise.
    """
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).unflatten(3, (2, -1)).transpose(2, 3)
    return rows.reshape(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def rectify(x: Tensor, place: Tensor) -> Tensor:
    """Write ``x``, and 0 where it is less, to ``place``, which may be ``x``."""
    given, result = x, place
    if x.device.type == "cpu" and x.dtype == torch.bfloat16:
        # Negative as bfloat16 is negative as int16, and integers need no widening.
        given, result = x.view(torch.int16), place.view(torch.int16)
    torch.clamp_min(given, 0, out=result)
    return place


def reflected(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 width, W + 2 width), with a border that reflects it."""
    padded = bordered(x, width, dtype)
    inside(padded, width).copy_(x)
    return reflect_(padded, width)


def bordered(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Room for what is like ``x``, (B, C, H, W), with a border."""
    batch, channels, height, breadth = x.shape
    return _empty((batch, channels, height + 2 * width, breadth + 2 * width), x, dtype)


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
        pairs = x.movedim(dim, 0)
        last = len(pairs) - 1
        pairs[to :: last - 2 * to][:2] = pairs[of :: last - 2 * of][:2]
    return x


def _empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(
        shape,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )
