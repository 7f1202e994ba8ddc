"""Perceptual losses: how far a picture is from the photo and from the painting.

Features are lists of (B, C, H, W) activations as pipeline.networks.features gives them. Every
style distance is relative to the painting's own magnitude, so that layers and paintings weigh
alike; every loss returns one value per image, (B,), float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5

# relu1_1 .. relu5_1; the last layer has few positions, so its statistics are noisy.
LAYER_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 0.5)

# Side of the blocks that smoothness_loss looks at, pixels, and what is an edge between them.
SMOOTH_OVER, EDGE = 8, 0.03

# Side of the regions that lattice_loss looks at, in steps of 4 pixels.
LATTICE_OVER = 14

CONTENT_LAYER = 3  # relu4_1, Huang and Belongie 2017, "Arbitrary Style Transfer in Real-time"


@dataclass(frozen=True)
class Statistics:
    """What one layer's activations have in common with another picture of the same style.

    mean, std: (B, C) over the positions; correlation: (B, C, C) between channels;
    gram: (B, C, C), the uncentred second moment.
    """

    mean: Tensor
    std: Tensor
    correlation: Tensor
    gram: Tensor

    @staticmethod
    def stack(each: Sequence[Statistics]) -> Statistics:
        """Those of several pictures as one batch."""
        names = ("mean", "std", "correlation", "gram")
        return Statistics(*(torch.cat([getattr(one, name) for one in each]) for name in names))

    def blend(self, mix: Tensor) -> Statistics:
        """Those of blends of the pictures of the batch; ``mix``: (N, B), rows that sum to 1."""
        each = (self.mean, self.std, self.correlation, self.gram)
        return Statistics(*(torch.tensordot(mix, one, dims=1) for one in each))


def statistics(features: Tensor) -> Statistics:
    """Statistics of (B, C, H, W) activations over their positions, in float32."""
    x = features.float().flatten(2)
    mean = x.mean(2)
    # The product in the features' own dtype: bfloat16 is three times as fast on CPU.
    centred = (x - mean[:, :, None]).to(features.dtype)
    covariance = (centred @ centred.mT).float() / x.shape[2]
    std = (covariance.diagonal(dim1=1, dim2=2) + EPS).sqrt()
    correlation = covariance / (std[:, :, None] * std[:, None, :])
    gram = covariance + mean[:, :, None] * mean[:, None, :]
    return Statistics(mean, std, correlation, gram)


def relative(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared distance over squared norm of ``theirs``, per image."""
    difference = (ours - theirs).flatten(1).square().sum(1)
    return difference / theirs.flatten(1).square().sum(1)


def statistics_terms(ours: Sequence[Statistics], theirs: Sequence[Statistics]) -> Tensor:
    """Distances of means, standard deviations and correlations, (B, layers x 3).

    Mean and standard deviation as in Huang and Belongie 2017, eq. 13. The correlation matrix is
    the Gram matrix of Gatys et al. 2016 without the colours: centred and scaled to unit
    variance, so that no channel drowns the others.
    """
    terms = [
        relative(getattr(a, name), getattr(b, name)) * weight
        for a, b, weight in zip(ours, theirs, _layer_weights(ours), strict=True)
        for name in ("mean", "std", "correlation")
    ]
    return torch.stack(terms, dim=1)


def gram_terms(ours: Sequence[Statistics], theirs: Sequence[Statistics]) -> Tensor:
    """Distances of Gram matrices, (B, layers) (Gatys et al. 2016, eq. 3 to 5)."""
    terms = [
        relative(a.gram, b.gram) * weight
        for a, b, weight in zip(ours, theirs, _layer_weights(ours), strict=True)
    ]
    return torch.stack(terms, dim=1)


def _layer_weights(layers: Sequence[Statistics]) -> Sequence[float]:
    """LAYER_WEIGHTS for each scale at which the picture was looked at."""
    return LAYER_WEIGHTS * (len(layers) // len(LAYER_WEIGHTS))


STYLE_TERMS = {"statistics": statistics_terms, "gram": gram_terms}


def content_distance(ours: Sequence[Tensor], photo: Sequence[Tensor]) -> Tensor:
    """Mean squared distance of relu4_1, each channel normalized over the picture.

    The feature reconstruction loss of Johnson et al. 2016, eq. 2, on instance-normalized
    features, so that it asks for the photo's shapes and not for its contrast and colours: 0 for
    the photo itself, 2 for what has nothing in common with it.
    """
    a, b = (F.instance_norm(f[CONTENT_LAYER].float()) for f in (ours, photo))
    return (a - b).square().flatten(1).mean(1)


def feature_distance(ours: Sequence[Tensor], photo: Sequence[Tensor]) -> Tensor:
    """Squared distance of relu4_1 relative to the photo's (Johnson et al. 2016, eq. 2)."""
    return relative(ours[CONTENT_LAYER].float(), photo[CONTENT_LAYER].float())


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (B, 3, H, W) -> (B,).

    The anisotropic total variation of Rudin, Osher and Fatemi 1992, per pixel.
    """
    x = images.float()
    rows = (x[:, :, 1:] - x[:, :, :-1]).abs().flatten(1).mean(1)
    columns = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().flatten(1).mean(1)
    return rows + columns


def variation_hinge(images: Tensor, painting: Tensor) -> Tensor:
    """How much more a picture varies from pixel to pixel than the painting does.

    Small networks satisfy every feature loss with pixel noise; a hinge at the painting's own
    total variation ``painting``, (B,), forbids that without smoothing the strokes away.
    """
    return F.relu(total_variation(images) / painting - 1.0)


def smoothness_loss(images: Tensor, photos: Tensor) -> Tensor:
    """How much a picture changes in the large where the photo does not, (B,).

    The edge-aware smoothness of Godard et al. 2017, "Unsupervised Monocular Depth Estimation
    with Left-Right Consistency", eq. 3, between blocks of 8 pixels: strokes are free, moons and
    clouds that the photo knows nothing of are not.

    Args:
        images, photos: (B, 3, H, W), in 0..1, H and W at least 16.
    """
    a, b = (F.avg_pool2d(x.float(), SMOOTH_OVER) for x in (images, photos))
    total = torch.zeros(len(a), device=a.device)
    for axis in (2, 3):
        change, edge = (x.diff(dim=axis).abs().mean(1) for x in (a, b))
        total = total + (change * torch.exp(-edge / EDGE)).flatten(1).mean(1)
    return total


def lattice_loss(images: Tensor) -> Tensor:
    """How much the four by four pixels differ that a network with stride 4 makes at once, (B,).

    In photos they are alike on the average over a region; where they are not, there is a screen
    over the picture (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts").

    Args:
        images: (B, 3, H, W), H and W multiples of 4 and at least 64.
    """
    regions = F.avg_pool2d(F.pixel_unshuffle(images.float(), 4), LATTICE_OVER)
    phases = regions.reshape(len(images), 3, 16, -1)
    return (phases - phases.mean(2, keepdim=True)).abs().flatten(1).mean(1)


def range_loss(images: Tensor) -> Tensor:
    """Mean distance by which pixels leave 0..1, where clamping would cut gradients, (B,)."""
    x = images.float()
    return (x - x.clamp(0.0, 1.0)).abs().flatten(1).mean(1)
