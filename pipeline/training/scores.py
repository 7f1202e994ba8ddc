"""The score card: how good a style is, in figures that no training run has looked at.

All distances are relative and are means over the photos. ``texture``, ``strokes``, ``colour``,
``content`` and ``noise`` are what pictures of one style share; ``ssim``, ``edges`` and ``jitter``
are what is left of the photo and how calm the result is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks.fast import FastTransformNet
from pipeline.networks.features import FeatureNet
from pipeline.networks.johnson import JohnsonNet
from pipeline.training.losses import (
    Statistics,
    content_distance,
    relative,
    statistics,
    total_variation,
)
from pipeline.training.similarity import gradient_ssim, ssim

TEXTURE_LAYER = 2  # relu3_1
COLOUR_LAYERS = 3  # relu1_1 .. relu3_1


@dataclass(frozen=True)
class Scores:
    """One style's score card.

    texture: squared distance of the feature correlations at relu3_1 from the painting's,
        relative to their squared norm. strokes: the same at half the size. colour: of the means
        and standard deviations at relu1_1 to relu3_1, averaged. content: content_distance from
        the photo. noise: total variation relative to the painting's. ssim, edges: structural
        similarity to the photo, of luminance and of its gradients. jitter: how much a result
        changes where the photo moves by one pixel, relative to how much the photo itself changes.
    """

    texture: float
    strokes: float
    colour: float
    content: float
    noise: float
    ssim: float
    edges: float
    jitter: float


@torch.no_grad()
def score(
    network: FastTransformNet | JohnsonNet,
    mix: Tensor,
    photos: Tensor,
    painting: Tensor,
    features: FeatureNet,
) -> Scores:
    """Score a style.

    Args:
        mix: (1, styles), which style. photos: (B, 3, H, W), RGB in 0..1, H and W multiples of 4.
        painting: (1, 3, H', W'). features: the judge.
    """
    results = network(photos, mix).clamp(0.0, 1.0)
    moved = photos.roll(1, dims=3)
    shifted = network(moved, mix).clamp(0.0, 1.0)
    of_results, of_photos, of_painting = (features(x) for x in (results, photos, painting))
    ours = [statistics(layer) for layer in of_results[:COLOUR_LAYERS]]
    theirs = [statistics(layer) for layer in of_painting[:COLOUR_LAYERS]]
    coarse, coarse_painting = (
        statistics(features(F.avg_pool2d(x, 2), TEXTURE_LAYER + 1)[TEXTURE_LAYER])
        for x in (results, painting)
    )
    colour = [
        relative(getattr(a, name), getattr(b, name))
        for a, b in zip(ours, theirs, strict=True)
        for name in ("mean", "std")
    ]
    jitter = _change(shifted, results) / _change(moved, photos)
    return Scores(
        texture=_texture(ours[TEXTURE_LAYER], theirs[TEXTURE_LAYER]),
        strokes=_texture(coarse, coarse_painting),
        colour=torch.stack(colour).mean().item(),
        content=content_distance(of_results, of_photos).mean().item(),
        noise=(total_variation(results) / total_variation(painting)).mean().item(),
        ssim=ssim(results, photos).mean().item(),
        edges=gradient_ssim(results, photos).mean().item(),
        jitter=jitter.mean().item(),
    )


def _texture(ours: Statistics, theirs: Statistics) -> float:
    return relative(ours.correlation, theirs.correlation).mean().item()


def _change(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().flatten(1).mean(1)
