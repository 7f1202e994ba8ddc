"""Feature networks: what the perceptual losses look through."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.url import describe

Padding = Literal["zeros", "reflect"]

# torchvision's input normalization, https://pytorch.org/vision/stable/models.html
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])

# Convolutions in each block, up to conv5_1 (Simonyan and Zisserman 2015, table 1, D and E).
VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 1), "vgg19": (2, 2, 4, 4, 1)}


class FeatureNet(nn.Module):
    """A VGG up to relu5_1, or to relu4_1, frozen; any width.

    Args:
        weights: ``conv0.weight``, ``conv0.bias`` (1x1, from RGB in 0..1 to what the network
            expects) and ``conv{block}_{n}.weight`` / ``.bias`` for blocks 1 to 5. A distilled
            network may have heads ``aux{block}_1`` (1x1), which say what the large one's
            features would be.
        padding: "zeros" (torchvision's VGG) or "reflect" (the distilled ones).

    Raises:
        ValueError: a block before the fifth has no convolution in ``weights``.
    """

    def __init__(self, weights: Mapping[str, Tensor], padding: Padding) -> None:
        super().__init__()
        # Each stage leads from one layer that is looked at to the next.
        stages: list[list[nn.Module]] = [[_conv(weights, "conv0", padding)]]
        for block in range(1, 6):
            names = sorted(
                key.removesuffix(".weight")
                for key in weights
                if key.startswith(f"conv{block}_") and key.endswith(".weight")
            )
            if not names and block == 5:
                break
            if not names:
                raise ValueError(f"the feature network has no conv{block}_1")
            first, *others = (_conv(weights, name, padding) for name in names)
            stages[-1] += [first, nn.ReLU()]
            following = [module for conv in others for module in (conv, nn.ReLU())]
            stages.append([*following, nn.MaxPool2d(2)])
        self.stages = nn.Sequential(*(nn.Sequential(*stage) for stage in stages[:-1]))
        self.heads = nn.ModuleList(
            _head(weights, f"aux{block}_1") for block in range(1, len(stages))
        )
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor, layers: int | None = None) -> list[Tensor]:
        """The layers of Gatys et al. 2016 for style.

        Args:
            images: (B, 3, H, W), RGB in 0..1, H and W at least 32.
            layers: only the first so many.

        Returns:
            relu1_1, relu2_1, relu3_1, relu4_1 and, if there, relu5_1; the k-th at 1/2^(k-1) of
            the size.
        """
        features = []
        x = images
        for stage, head in islice(zip(self.stages, self.heads, strict=True), layers):
            x = stage(x)
            features.append(head(x))
        return features


def _head(weights: Mapping[str, Tensor], name: str) -> nn.Module:
    """From the features of a distilled network to those of the large one.

    Not in the first two blocks, where the two are nearly the same and positions are many. With
    the heads, styles trained for equal content come out nearer to the painting for judges that
    training never saw.
    """
    if f"{name}.weight" not in weights or name in ("aux1_1", "aux2_1"):
        return nn.Identity()
    return nn.Sequential(_conv(weights, name, "zeros"), nn.ReLU())


def _conv(weights: Mapping[str, Tensor], name: str, padding: Padding) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weights[f"{name}.weight"].shape
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode=padding)
    layer.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
    return layer


def load_features(name: str) -> FeatureNet:
    """The feature network called ``name``.

    Args:
        name: ``vgg16`` or ``vgg19`` (torchvision's ImageNet weights, downloaded to torch's
            cache the first time), or the path of a safetensors file with the keys that
            FeatureNet takes (reflection padding).

    Raises:
        ValueError: neither of these, or it cannot be downloaded.
    """
    if name in VGG_BLOCKS:
        return FeatureNet(_torchvision_weights(name), padding="zeros")
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"no feature network '{name}': give vgg16, vgg19 or a safetensors file")
    try:
        return FeatureNet(load_file(path), padding="reflect")
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} is not a feature network that restyle knows: {error}") from error


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    import torchvision.models

    try:
        network = torchvision.models.get_model(name, weights="IMAGENET1K_V1")
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"{name} cannot be downloaded to {cache}, or is damaged there: {describe(error)}; "
            "mend that, or give --features FILE"
        ) from error
    state = network.features.state_dict()
    convs = iter(key.removesuffix(".weight") for key in state if key.endswith(".weight"))
    weights = {
        "conv0.weight": torch.diag(1 / IMAGENET_STD)[:, :, None, None],
        "conv0.bias": -IMAGENET_MEAN / IMAGENET_STD,
    }
    for block, count in enumerate(VGG_BLOCKS[name], start=1):
        for depth in range(1, count + 1):
            conv = next(convs)
            weights[f"conv{block}_{depth}.weight"] = state[f"{conv}.weight"]
            weights[f"conv{block}_{depth}.bias"] = state[f"{conv}.bias"]
    return weights
