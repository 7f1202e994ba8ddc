"""Structural similarity, against the formula one window at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.colour import luminance
from pipeline.training.similarity import gradient_magnitude, gradient_ssim, ssim


def noise(seed: int, side: int = 20) -> Tensor:
    return torch.rand(2, 3, side, side + 3, generator=torch.Generator().manual_seed(seed))


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 of two (H, W) planes, float64."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (plane[top : top + 11, left : left + 11] for plane in (a, b))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            cov = (window * (x - mx) * (y - my)).sum()
            values.append(
                (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
                / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
            )  # fmt: skip
    return float(np.mean(values))


def test_it_is_the_formula_of_the_paper() -> None:
    a, b = noise(0), 0.5 * noise(0) + 0.5 * noise(1)
    for index, value in enumerate(ssim(a, b)):
        planes = (luminance(x)[index, 0].double().numpy() for x in (a, b))
        assert value.item() == pytest.approx(plain_ssim(*planes), rel=1e-3)


def test_gradients_are_compared_in_the_same_way() -> None:
    a, b = noise(0), 0.5 * noise(0) + 0.5 * noise(1)
    for index, value in enumerate(gradient_ssim(a, b)):
        planes = (gradient_magnitude(x)[index, 0].double().numpy() for x in (a, b))
        assert value.item() == pytest.approx(plain_ssim(*planes), rel=1e-3)


@pytest.mark.parametrize("measure", [ssim, gradient_ssim])
def test_equal_pictures_are_alike_and_others_less(measure: object) -> None:
    assert callable(measure)
    a, b = noise(0), noise(1)
    torch.testing.assert_close(measure(a, a), torch.ones(2))
    near, far = measure(a, 0.8 * a + 0.2 * b), measure(a, b)
    assert (far < near).all()
    assert (near < 1).all()


def test_a_gradient_is_the_slope() -> None:
    ramp = torch.linspace(0, 1, 11)[None, None, None].expand(1, 3, 9, 11)
    torch.testing.assert_close(
        gradient_magnitude(ramp), torch.full((1, 1, 7, 9), 0.2 / 2**0.5), rtol=1e-3, atol=0
    )


def test_edges_do_not_care_for_brightness() -> None:
    a = noise(0) * 0.5
    assert gradient_ssim(a, a + 0.4).min() > 0.999
    assert ssim(a, a + 0.4).max() < 0.9


def test_its_gradient_leads_to_likeness() -> None:
    a, b = noise(0), noise(1).requires_grad_()
    for measure in (ssim, gradient_ssim):
        (slope,) = torch.autograd.grad(measure(a, b).sum(), b)
        assert torch.isfinite(slope).all()
        step = b.detach() + 0.05 * slope / slope.abs().max()
        assert (measure(a, step) > measure(a, b)).all()
