"""The network as it is run against the network as it is trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.networks.fast import FastTransformNet
from pipeline.networks.inference import (
    FastInference,
    at_small_size,
    lower_,
    phase_by_phase,
    phases,
    pixel_shuffle,
    rectify,
    reflected,
    replicate_,
)
from pipeline.networks.norm import WHITE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def network() -> FastTransformNet:
    """With styles that differ."""
    made = FastTransformNet(3, half=8, quarter=12, blocks=2)
    made.styles.data += 0.3 * torch.randn_like(made.styles)
    return made


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (40, 64), (100, 36)])
def test_it_is_the_same_function(
    network: FastTransformNet, size: tuple[int, int], rows: int
) -> None:
    photos = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    mix = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])[:rows]
    with torch.inference_mode():
        ours = FastInference(network, torch.float32)(photos, mix)
        torch.testing.assert_close(ours, network(photos / WHITE, mix), rtol=1e-4, atol=1e-4)


def test_it_leaves_the_photos_and_the_network_as_they_were(network: FastTransformNet) -> None:
    photos = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    before = photos.clone(), {name: w.clone() for name, w in network.state_dict().items()}
    with torch.inference_mode():
        FastInference(network, torch.bfloat16)(photos, torch.tensor([[1.0, 0.0, 0.0]]))
    assert torch.equal(photos, before[0])
    assert all(torch.equal(w, before[1][name]) for name, w in network.state_dict().items())


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (7, 4)])
def test_a_convolution_at_the_small_size_is_that_of_the_upsampled(size: tuple[int, int]) -> None:
    x, weight = torch.randn(2, 5, *size), torch.randn(6, 5, 3, 3)
    upsampled = F.pad(F.interpolate(x, scale_factor=2.0), (1, 1, 1, 1), mode="reflect")
    ours = phases(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), at_small_size(weight)))
    torch.testing.assert_close(ours, F.conv2d(upsampled, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_shuffle_is_that_of_torch(dtype: torch.dtype) -> None:
    x = torch.randn(2, 12, 5, 7).to(dtype)
    ordered = phase_by_phase(x.transpose(0, 1)).transpose(0, 1)
    given = ordered.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixel_shuffle(given), F.pixel_shuffle(x, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_level_is_taken_from_each_channel_of_each_image(dtype: torch.dtype) -> None:
    photos, level = torch.randint(0, 256, (2, 3, 5, 7)), torch.randint(0, 256, (2, 3, 1, 1))
    x = photos.to(dtype).contiguous(memory_format=torch.channels_last)
    assert lower_(x, level.float()) is x
    assert torch.equal(x, (photos - level).to(dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8])
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 16, 6, 7), (3, 1, 9, 8)])
@pytest.mark.parametrize("width", [1, 2])
def test_borders_are_those_of_torch(width: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape) * 50 + 100).to(dtype)
    edges = (width,) * 4
    given = x.contiguous(memory_format=torch.channels_last)
    padded = reflected(given, width, torch.float32)
    assert torch.equal(padded, F.pad(x.float(), edges, mode="reflect"))
    if width == 1:
        assert torch.equal(replicate_(padded), F.pad(x.float(), edges, mode="replicate"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_is_that_of_torch_to_anywhere(dtype: torch.dtype) -> None:
    special = torch.tensor([-0.0, 0.0, 1e-30, -1e-30, 3e38, -3e38, torch.inf, -torch.inf])
    x = torch.cat([torch.randn(1000), special]).to(dtype)
    expected = F.relu(x)
    wider = torch.full((len(x), 3), torch.nan, dtype=dtype)
    rectify(x, wider[:, 1])
    assert torch.equal(wider[:, 1], expected)
    assert wider[:, ::2].isnan().all()
    assert rectify(x, x) is x
    assert torch.equal(x, expected)
