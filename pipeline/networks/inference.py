"""FastTransformNet as it is run: the same function of photos and styles, arranged for speed.

Where a network is as small as this one, convolutions are but half of the time. So activations lie
in the middle of tensors with room for the border that the next convolution wants, which are not
copied to be padded, nothing is made at a size at which nothing is learnt, and on a CPU all that
lies between two convolutions is done in two passes over memory (fused.py; elsewhere eager.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks import eager
from pipeline.networks.fast import FastTransformNet, StyledConv
from pipeline.networks.norm import WHITE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """A convolution, and where a style has the scale and shift of the normalization after it."""

    weight: Tensor
    stride: tuple[int, int]
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

        def layer(styled: StyledConv, weight: Tensor, stride: tuple[int, int]) -> Layer:
            return Layer(ready(weight), stride, styled.padding, styled.scale, styled.shift)

        def as_trained(styled: StyledConv) -> Layer:
            down, right = styled.conv.stride
            return layer(styled, styled.conv.weight, (down, right))

        self.dtype = dtype
        self.stride = network.stride
        self.styles = network.styles.detach()
        # Its photos are 0 to 255; a power of two changes no digit of a weight, but of float16's
        # smallest.
        self.down1 = layer(network.down1, of_pairs(network.down1.conv.weight / WHITE), (2, 1))
        self.down2 = as_trained(network.down2)
        self.blocks = [(as_trained(one), as_trained(other)) for one, other in network.blocks()]
        self.up = layer(network.up, at_small_size(network.up.conv.weight.detach()), (1, 1))
        self._out = ready(phase_by_phase(network.out.weight))
        self._bias = None
        if network.out.bias is not None:
            self._bias = phase_by_phase(network.out.bias).detach().to(dtype)
        self.steps = _steps(self.styles.device, dtype)
        # What scales and shifts are rounded to: torch wants those of what they normalize.
        self.style_dtype = dtype if self.steps is eager else torch.float32

    def __call__(self, photos: Tensor, mix: Tensor) -> Tensor:
        """Stylize a batch.

        Args:
            photos: (B, 3, H, W) uint8, RGB; H and W multiples of 4, at least 16.
            mix: (B, styles) or (1, styles), float32, how much of each style; a row sums to 1.

        Returns:
            (B, 3, H, W), RGB in 0..1, not clamped.
        """
        return self.leave(self.activations(photos, mix))

    @property
    def finishes(self) -> bool:
        """Whether it has ``finished``."""
        return self.steps is not eager

    def finished(self, photos: Tensor, mix: Tensor, strengths: Tensor) -> Tensor:
        """As a call, to the end.

        Args:
            strengths: (B,) float32, 0 (the photo) to 1.

        Returns:
            (B, 3, H, W) uint8, RGB, channels last.
        """
        return self.steps.finished(self._leave(self.activations(photos, mix)), photos, strengths)

    def leave(self, x: Tensor) -> Tensor:
        """The last layer: activations with their border -> (B, 3, H, W)."""
        return eager.pixel_shuffle(self._leave(x))

    def _leave(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._out, self._bias)

    def activations(self, photos: Tensor, mix: Tensor) -> Tensor:
        """What the last layer is given, of photos and styles as a call has them."""
        steps = self.steps
        style = steps.ready(mix @ self.styles)

        def of(layer: Layer) -> tuple[Any, Any]:
            return style[:, layer.scale], style[:, layer.shift]

        x = steps.entered(photos, self.down1.border, self.dtype)
        x = steps.rectified(self.down1(x), *of(self.down1))
        x = steps.rectified(self.down2(x), *of(self.down2))
        for first, second in self.blocks:
            y = steps.rectified(first(x), *of(first))
            steps.add_(x, second(y), *of(second))
        return steps.raised(self.up(eager.replicate_(x)), *of(self.up))


def _steps(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The module that has the steps between convolutions."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return eager
    try:
        from pipeline.networks import fused
    except (ImportError, OSError) as error:  # it is not there, does not fit NumPy, or not load
        log.warning(f"the network takes up to twice as long as it could, without Numba: {error}")
        return eager
    return fused


def of_pairs(weight: Tensor) -> Tensor:
    """(O, I, H, W), with stride 2 -> (O, 2 I, H, W / 2), of ``eager.pairs``, with stride (2, 1).

    The same sums; but of three channels at a time they take half as long again in bfloat16.
    """
    return weight.reshape(*weight.shape[:3], -1, 2).movedim(4, 1).flatten(1, 2)


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


def phase_by_phase(weight: Tensor) -> Tensor:
    """(4 C, ...) of a convolution before a pixel shuffle, the phases of a channel side by side ->
    the channels of a phase side by side.
    """
    return weight.reshape(-1, 4, *weight.shape[1:]).transpose(0, 1).flatten(0, 1)
