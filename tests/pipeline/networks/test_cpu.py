"""What is done by hand on a CPU gives what torch's own operations give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.networks.cpu import reflection_pad, relu_


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 16, 5, 3), (3, 1, 4, 4)])
@pytest.mark.parametrize("width", [1, 2])
def test_reflection_pad_is_that_of_torch(
    width: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(shape).to(dtype)
    expected = F.pad(x, (width,) * 4, mode="reflect")
    with torch.inference_mode():
        assert torch.equal(reflection_pad(x, width), expected)
        channels_last = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(reflection_pad(channels_last, width), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_relu_is_that_of_torch_and_in_place(dtype: torch.dtype) -> None:
    special = torch.tensor([-0.0, 0.0, 1e-30, -1e-30, 3e38, -3e38, torch.inf, -torch.inf])
    x = torch.cat([torch.randn(1000), special]).to(dtype)
    expected = F.relu(x)
    with torch.inference_mode():
        assert relu_(x) is x
    assert torch.equal(x, expected)


def test_gradients_flow_through_both() -> None:
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    relu_(reflection_pad(x * 1.0, 1)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad > 0, x > 0)
