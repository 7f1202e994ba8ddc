"""The gradient of the normalization against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.networks import norm as norm_module
from pipeline.networks.norm import conditional_instance_norm


def plain_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Dumoulin et al. 2017, eq. 5, by elementary operations."""
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    normal = (x - mean) / (variance + 1e-5).sqrt()
    return normal * scale[:, :, None, None] + shift[:, :, None, None]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_formula(rows: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 5, 6, 7) * 2 + 1, torch.randn(rows, 5), torch.randn(rows, 5))
    weight = torch.randn(3, 5, 6, 7).double()
    grads = []
    for norm, dtype in ((conditional_instance_norm, torch.float32), (plain_norm, torch.float64)):
        given = [tensor.to(dtype) for tensor in inputs]
        given[0] = given[0].to(memory_format=memory_format)
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        (norm(*leaves).double() * weight).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for ours, theirs in zip(*grads, strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-4)


def test_bfloat16_gradients_are_near_those_of_float32() -> None:
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 4, 16, 16), torch.rand(2, 4) + 0.5, torch.randn(2, 4)
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [x.to(dtype).requires_grad_(), scale.clone().requires_grad_()]
        result = conditional_instance_norm(leaves[0], leaves[1], shift)
        assert result.dtype == dtype
        (result.float() ** 3).sum().backward()
        grads.append([leaf.grad.float() for leaf in leaves if leaf.grad is not None])
    for ours, theirs in zip(*grads, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_the_result_is_the_same_with_a_gradient_and_without() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 5, 6, 7), torch.randn(3, 5), torch.randn(3, 5))
    with torch.no_grad():
        without = conditional_instance_norm(*inputs)
    torch.testing.assert_close(conditional_instance_norm(*inputs), without)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_as_one_image_is_the_formula(rows: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 6, 7).to(memory_format=memory_format)
    scale, shift = torch.randn(rows, 5), torch.randn(rows, 5)
    found = norm_module._as_one_image(x, scale, shift)
    torch.testing.assert_close(found, plain_norm(x, scale, shift))
