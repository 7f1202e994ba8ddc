"""The small network: its size, its normalization, its styles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks.fast import FastTransformNet, conditional_instance_norm
from pipeline.networks.johnson import JohnsonNet


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small_net(styles: int = 3) -> FastTransformNet:
    """With styles that differ."""
    network = FastTransformNet(styles, half=8, quarter=8, blocks=2)
    network.styles.data += 0.3 * torch.randn_like(network.styles)
    return network.eval()


def multiply_adds(network: nn.Module, styles: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        photo, mix = torch.empty(1, 3, 256, 256), torch.empty(1, styles)
        network.to("meta")(photo.to("meta"), mix.to("meta"))
    return counter.get_total_flops() // 2


def plain_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Dumoulin et al. 2017, eq. 5, in float64."""
    x = x.double()
    mean = x.mean((2, 3), keepdim=True)
    std = (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - mean) / std * scale.double()[:, :, None, None] + shift.double()[:, :, None, None]


def test_it_needs_at_most_a_fifth_of_johnsons_multiply_adds() -> None:
    fast, johnson = multiply_adds(FastTransformNet(8), 8), multiply_adds(JohnsonNet(), 1)
    assert johnson == pytest.approx(10.1e9, rel=0.02)
    assert fast == pytest.approx(0.61e9, rel=0.05)
    assert fast * 5 <= johnson


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_normalization_is_that_of_the_paper(
    rows: int, memory_format: torch.memory_format
) -> None:
    x = (torch.randn(4, 6, 9, 11) * 3 + 5).to(memory_format=memory_format)
    scale, shift = torch.randn(rows, 6), torch.randn(rows, 6)
    ours = conditional_instance_norm(x, scale, shift)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain_norm(x, scale, shift).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 4])
def test_statistics_of_bfloat16_are_taken_in_float32(rows: int) -> None:
    x = (torch.randn(4, 6, 64, 64) + 10).bfloat16().to(memory_format=torch.channels_last)
    scale, shift = torch.rand(rows, 6) + 0.5, torch.randn(rows, 6)
    ours = conditional_instance_norm(x, scale, shift)
    assert ours.dtype == torch.bfloat16
    difference = ours.double() - plain_norm(x, scale, shift)
    assert difference.abs().max() < 0.06
    assert difference.mean((2, 3)).abs().max() < 0.01


def test_the_normalization_of_a_flat_channel_is_the_shift() -> None:
    x = torch.full((2, 3, 8, 8), 7.0)
    shift = torch.tensor([[1.0, -2.0, 3.0]])
    ours = conditional_instance_norm(x, torch.ones(1, 3), shift)
    torch.testing.assert_close(ours, shift[:, :, None, None].expand(2, 3, 8, 8), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (256, 36)])
def test_the_size_is_kept(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert small_net()(torch.rand(2, 3, *size), torch.eye(3)[:2]).shape == (2, 3, *size)


def test_every_image_of_a_batch_has_its_own_mix() -> None:
    network, photos = small_net(), torch.rand(3, 3, 32, 40)
    mixes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.25, 0.75], [0.2, 0.3, 0.5]])
    with torch.inference_mode():
        together = network(photos, mixes)
        alone = torch.cat([network(photos[i : i + 1], mixes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_one_row_serves_the_whole_batch() -> None:
    network, photos = small_net(), torch.rand(3, 3, 32, 32)
    row = torch.tensor([[0.0, 0.4, 0.6]])
    with torch.inference_mode():
        torch.testing.assert_close(
            network(photos, row), network(photos, row.expand(3, -1)), rtol=1e-4, atol=1e-5
        )


def test_styles_differ_and_blends_lie_on_the_way() -> None:
    network, photos = small_net(), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        red, green, nearly_red = (
            network(photos, torch.tensor([row]))
            for row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.99, 0.01, 0.0])
        )
    assert (red - green).abs().mean() > 0.05
    assert (red - nearly_red).abs().mean() < 0.1 * (red - green).abs().mean()


def test_styles_share_all_weights_but_their_rows() -> None:
    def weights(styles: int) -> int:
        return sum(parameter.numel() for parameter in FastTransformNet(styles).parameters())

    row = FastTransformNet(1).styles.shape[1]
    assert weights(9) - weights(8) == row
    assert row < 0.02 * weights(8)


def test_a_new_network_paints_no_grid() -> None:
    with torch.inference_mode():
        result = FastTransformNet(1)(torch.rand(1, 3, 64, 64), torch.ones(1, 1))
    blocks = result.unflatten(3, (32, 2)).unflatten(2, (32, 2))
    assert (blocks - blocks[:, :, :, :1, :, :1]).abs().max() < 1e-5
    assert result.std() > 0.01


def test_the_config_builds_the_same_network() -> None:
    network = FastTransformNet(2, half=4, quarter=12, blocks=1)
    again = FastTransformNet(**network.config)
    again.load_state_dict(network.state_dict())
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]


def test_every_parameter_is_trained() -> None:
    network = small_net().train()
    mixes = torch.full((2, 3), 1 / 3)
    network(torch.rand(2, 3, 32, 32), mixes).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
