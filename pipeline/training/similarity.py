"""How alike two pictures are, pixel by pixel: structural similarity, and that of gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.colour import luminance

WINDOW, SIGMA = 11, 1.5
# (0.01 L)^2 and (0.03 L)^2 for values in 0..1.
C1, C2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of luminances, 1 for equal pictures (Wang et al. 2004, eq. 13).

    Args:
        a, b: (B, 3, H, W), RGB in 0..1, H and W at least 11.

    Returns:
        (B,), the mean over all 11x11 Gaussian windows.
    """
    return _ssim(luminance(a.float()), luminance(b.float()))


def gradient_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of gradient magnitudes, so of edges (Chen et al. 2006, sec. 3).

    Args and result as of ssim; H and W at least 13.
    """
    return _ssim(gradient_magnitude(a.float()), gradient_magnitude(b.float()))


def gradient_magnitude(images: Tensor) -> Tensor:
    """Of the luminance, by Sobel's operator, 0..1: (B, 3, H, W) -> (B, 1, H - 2, W - 2)."""
    across = images.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 4.0
    kernels = torch.stack([across, across.T])[:, None]
    gradients = F.conv2d(luminance(images), kernels)
    # Not below a thousandth, where the slope of the root would be without bound.
    return (gradients.square().sum(1, keepdim=True) / 2.0 + 1e-6).sqrt()


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    places = torch.arange(WINDOW, device=a.device) - WINDOW // 2
    window = torch.exp(-(places**2) / (2 * SIGMA**2))
    window = window / window.sum()
    kernel = (window[:, None] * window[None, :])[None, None].to(a.dtype)
    mean_a, mean_b = F.conv2d(a, kernel), F.conv2d(b, kernel)
    var_a = F.conv2d(a * a, kernel) - mean_a**2
    var_b = F.conv2d(b * b, kernel) - mean_b**2
    covariance = F.conv2d(a * b, kernel) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    likeness = likeness / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))
    return likeness.flatten(1).mean(1)
