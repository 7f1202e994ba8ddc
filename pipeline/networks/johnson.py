"""The transform network of Johnson et al. 2016 and its published checkpoints."""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.norm import WHITE


class ReflectConv(nn.Module):
    """A convolution after reflection padding of half its kernel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        return self.conv2d(x)


class ResidualBlock(nn.Module):
    """conv, norm, relu, conv, norm, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ReflectConv(channels, channels, 3)
        self.in1 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = ReflectConv(channels, channels, 3)
        self.in2 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        return x + self.in2(self.conv2(F.relu(self.in1(self.conv1(x)))))


class JohnsonNet(nn.Module):
    """Johnson et al. 2016, "Perceptual Losses for Real-Time Style Transfer and
    Super-Resolution", supplement table 1, with instance normalization (Ulyanov et al. 2016)
    and nearest-neighbour upsampling before the last convolutions (Odena et al. 2016).

    Modules are named as in the fast_neural_style example of the PyTorch examples repository,
    so that its checkpoints load. One network holds one style.
    """

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ReflectConv(3, 32, 9)
        self.in1 = nn.InstanceNorm2d(32, affine=True)
        self.conv2 = ReflectConv(32, 64, 3, 2)
        self.in2 = nn.InstanceNorm2d(64, affine=True)
        self.conv3 = ReflectConv(64, 128, 3, 2)
        self.in3 = nn.InstanceNorm2d(128, affine=True)
        self.res1 = ResidualBlock(128)
        self.res2 = ResidualBlock(128)
        self.res3 = ResidualBlock(128)
        self.res4 = ResidualBlock(128)
        self.res5 = ResidualBlock(128)
        self.deconv1 = ReflectConv(128, 64, 3)
        self.in4 = nn.InstanceNorm2d(64, affine=True)
        self.deconv2 = ReflectConv(64, 32, 3)
        self.in5 = nn.InstanceNorm2d(32, affine=True)
        self.deconv3 = ReflectConv(32, 3, 9)

    def forward(self, photos: Tensor, mix: Tensor | None = None) -> Tensor:
        """Stylize a batch.

        Args:
            photos: (B, 3, H, W), floating point, RGB in 0..1; H and W multiples of 4.
            mix: taken for the sake of a common signature; there is one style.

        Returns:
            (B, 3, H, W) of the dtype of ``photos``, RGB in 0..1, not clamped.
        """
        x = photos * WHITE
        x = F.relu(self.in1(self.conv1(x)))
        x = F.relu(self.in2(self.conv2(x)))
        x = F.relu(self.in3(self.conv3(x)))
        for block in (self.res1, self.res2, self.res3, self.res4, self.res5):
            x = block(x)
        x = F.relu(self.in4(self.deconv1(F.interpolate(x, scale_factor=2.0))))
        x = F.relu(self.in5(self.deconv2(F.interpolate(x, scale_factor=2.0))))
        return self.deconv3(x) / 255.0


def from_example_checkpoint(state: dict[str, Tensor]) -> JohnsonNet:
    """A network from a state dict that the PyTorch examples' fast_neural_style wrote.

    Checkpoints of PyTorch before 0.4 carry running statistics that instance normalization
    never used (``in*.running_mean`` and so on); they are dropped, as the example itself does.

    Raises:
        ValueError: the keys or shapes are not those of that network.
    """
    wanted = {
        key: value
        for key, value in state.items()
        if not re.search(r"in\d+\.(running_(mean|var)|num_batches_tracked)$", key)
    }
    network = JohnsonNet()
    try:
        network.load_state_dict(wanted)
    except RuntimeError as error:
        raise ValueError(f"not a fast_neural_style checkpoint: {error}") from error
    return network.eval()
