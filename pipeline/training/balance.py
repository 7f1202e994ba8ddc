"""The weights of the losses, found while training.

What people can say is how much of the photo shall remain, and that holds for any painting; which
weight brings it about differs from painting to painting and from loss to loss. So the content
distance is given, and each style's weight follows from it: too far from the photo raises it, too
near lowers it, as a multiplier of a constraint (Platt and Barr 1988, "Constrained Differential
Optimization"; Rezende and Viola 2018, "Taming VAEs", sec. 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Content distance to reach (pipeline.training.losses.content_distance): 0 is the photo, 2 has
# nothing to do with it.
CONTENT_TARGETS = {"low": 0.42, "medium": 0.52, "high": 0.62}

# By how much a weight's logarithm moves for one image at twice the target, times the root of how
# many styles there are: each is seen less often, but a single image is no reason to jump.
RATE = 0.02
FIRST, LOWEST, HIGHEST = 0.5, 0.01, 100.0

# At first nothing is near the photo, which is no reason for weights without end.
MOST = 0.5


class ContentWeights:
    """A weight of the content loss for each style.

    Args:
        first: weights to begin with, one for each style. target: content distance to reach.
        fixed: a weight for all that stays as it is, or 0.
    """

    def __init__(
        self, first: Sequence[float], target: float, fixed: float, device: torch.device
    ) -> None:
        self.target = target
        self.fixed = bool(fixed)
        self.rate = RATE * math.sqrt(len(first))
        self.logarithms = torch.tensor([math.log(fixed or one) for one in first], device=device)

    def of(self, mix: Tensor) -> Tensor:
        """Weights of images with these blends: (B, styles) -> (B,)."""
        return (mix @ self.logarithms).exp()

    def update(self, mix: Tensor, distances: Tensor) -> None:
        """Learn from the content distances, (B,), that images with these blends had."""
        if not self.fixed:
            self.logarithms += self.rate * (mix.T @ (distances / self.target - 1.0).clamp(max=MOST))
            self.logarithms.clamp_(math.log(LOWEST), math.log(HIGHEST))
