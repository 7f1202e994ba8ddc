"""FastTransformNet: many styles in one small feed-forward network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.norm import conditional_instance_norm


class StyledConv(nn.Module):
    """A reflecting convolution followed by conditional instance normalization.

    Args:
        inputs, outputs: channels.
        column: where in a style's row this layer's ``2 * outputs`` numbers begin.
        kernel, stride: of the convolution, which keeps the size (divided by ``stride``).
    """

    def __init__(
        self, inputs: int, outputs: int, column: int, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.padding = (kernel - stride + 1) // 2
        # No bias: the normalization would take it away again.
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, bias=False)
        self.scale = slice(column, column + outputs)
        self.shift = slice(column + outputs, column + 2 * outputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B or 1, row length) -> (B, outputs, H/stride, W/stride)."""
        x = self.conv(reflection_pad(x, self.padding))
        return conditional_instance_norm(x, style[:, self.scale], style[:, self.shift])


class StyledBlock(nn.Module):
    """A residual block of two styled convolutions."""

    def __init__(self, first: StyledConv, second: StyledConv) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) and (B or 1, row length) -> (B, C, H, W)."""
        return self.second(F.relu_(self.first(x, style)), style).add_(x)


class FastTransformNet(nn.Module):
    """Feed-forward style transfer, many styles in one network, as it is trained.

    The layout is that of Johnson et al. 2016, "Perceptual Losses for Real-Time Style Transfer",
    made small: no layer works at full resolution, the photo enters through a 6x6 convolution
    with stride 2 and the result leaves through sub-pixel convolution (Shi et al. 2016), whose
    four phases start out equal so that no grid has to be unlearned (Aitken et al. 2017). Every
    normalization takes its scale and shift from the style (Dumoulin et al. 2017, "A Learned
    Representation for Artistic Style"). All scales and shifts of a style are one row of
    ``styles``: a style is added by a row, and styles are mixed by mixing rows, for each image
    of a batch on its own.

    With the default widths 0.61 G multiply-adds for 256x256; Johnson's network has 10.1 G.

    Args:
        styles: number of styles, at least 1.
        half, quarter: channels at 1/2 and at 1/4 of the resolution.
        blocks: residual blocks, at 1/4.
    """

    stride = 4

    def __init__(self, styles: int, half: int = 16, quarter: int = 32, blocks: int = 6) -> None:
        super().__init__()
        self.config = {"styles": styles, "half": half, "quarter": quarter, "blocks": blocks}
        columns = 0

        def layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> StyledConv:
            nonlocal columns
            made = StyledConv(inputs, outputs, columns, kernel, stride)
            columns += 2 * outputs
            return made

        self.down1 = layer(3, half, kernel=6, stride=2)
        self.down2 = layer(half, quarter, stride=2)
        self.body = nn.ModuleList(
            StyledBlock(layer(quarter, quarter), layer(quarter, quarter)) for _ in range(blocks)
        )
        self.up = layer(quarter, half)
        self.out = nn.Conv2d(half, 12, 3)
        self.styles = nn.Parameter(torch.zeros(styles, columns))
        self._reset()

    def _reset(self) -> None:
        for module in self.modules():
            if isinstance(module, StyledConv):
                self.styles.data[:, module.scale] = 1.0
        one_phase = self.out.weight.data[::4]
        self.out.weight.data.copy_(one_phase.repeat_interleave(4, dim=0))
        if self.out.bias is not None:
            nn.init.constant_(self.out.bias, 0.5)

    def blocks(self) -> Iterator[tuple[StyledConv, StyledConv]]:
        """The convolutions of the residual blocks."""
        for block in self.body:
            if isinstance(block, StyledBlock):
                yield block.first, block.second

    def with_styles(self, rows: Tensor) -> FastTransformNet:
        """The same network with other styles, (styles, row length)."""
        network = FastTransformNet(**(self.config | {"styles": len(rows)}))
        network.load_state_dict(self.state_dict() | {"styles": rows})
        return network

    def forward(self, photos: Tensor, mix: Tensor) -> Tensor:
        """Stylize a batch.

        Args:
            photos: (B, 3, H, W), floating point, RGB in 0..1; H and W multiples of 4.
            mix: (B, styles) or (1, styles), float32, how much of each style; a row sums to 1.
                One row for the whole batch is the faster way.

        Returns:
            (B, 3, H, W) of the dtype of ``photos``, RGB in 0..1, not clamped.
        """
        style = mix @ self.styles
        x = F.relu_(self.down1(photos, style))
        x = F.relu_(self.down2(x, style))
        for block in self.body:
            x = block(x, style)
        x = F.relu_(self.up(F.interpolate(x, scale_factor=2.0), style))
        return F.pixel_shuffle(self.out(reflection_pad(x, 1)), 2)


def reflection_pad(x: Tensor, width: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H + 2 width, W + 2 width), without the edge repeated."""
    return F.pad(x, (width, width, width, width), mode="reflect")
