"""The network as it is run against the network as it is trained, by each of its ways."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.networks import eager, fused, inference
from pipeline.networks.eager import lower_, pairs, phases, pixel_shuffle, reflect_, replicate_
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.inference import FastInference, at_small_size, of_pairs, phase_by_phase
from pipeline.networks.norm import WHITE
from pipeline.stylizer import _padded

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


@pytest.fixture(params=[eager, fused], ids=["eager", "fused"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What FastInference does between convolutions."""
    monkeypatch.setattr(inference, "_steps", lambda *_: request.param)
    return request.param


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (40, 64), (100, 36), (28, 44)])
def test_it_is_the_same_function(
    network: FastTransformNet, size: tuple[int, int], rows: int
) -> None:
    photos = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    mix = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])[:rows]
    with torch.inference_mode():
        ours = FastInference(network, torch.float32)(photos, mix)
        torch.testing.assert_close(ours, network(photos / WHITE, mix), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("steps")
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


def test_a_convolution_of_pairs_is_that_of_pixels() -> None:
    x = torch.randn(2, 3, 10, 12).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(5, 3, 6, 6)
    ours = F.conv2d(pairs(x), of_pairs(weight), stride=(2, 1))
    torch.testing.assert_close(ours, F.conv2d(x, weight, stride=2), rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 16, 6, 7), (3, 1, 9, 8)])
@pytest.mark.parametrize("width", [1, 2])
def test_borders_are_those_of_torch(width: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, edges = torch.randn(shape).to(dtype), (width,) * 4
    padded = F.pad(x, edges).contiguous(memory_format=torch.channels_last)
    assert torch.equal(reflect_(padded, width), F.pad(x.float(), edges, mode="reflect").to(dtype))
    if width == 1:
        replicated = F.pad(x.float(), edges, mode="replicate").to(dtype)
        assert torch.equal(replicate_(padded), replicated)


# How far a step may be from the same in float64, relative to the values and for all: bfloat16 is
# rounded once by fused, and up to three times by torch.
CLOSE = {
    (fused, torch.float32): 1e-5,
    (fused, torch.bfloat16): 2**-8,
    (eager, torch.float32): 1e-3,
    (eager, torch.bfloat16): 6 * 2**-8,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("styles", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 14), (30, 7)])
@pytest.mark.parametrize("channels", [6, 32])
def test_each_step_is_what_it_should_be(
    steps: ModuleType, channels: int, size: tuple[int, int], styles: int, dtype: torch.dtype
) -> None:
    def numbers(height: int, width: int, channels: int = channels) -> torch.Tensor:
        x = torch.randn(3, channels, height, width) * (torch.rand(channels, 1, 1) + 0.1) * 4 + 2
        return x.to(dtype).contiguous(memory_format=torch.channels_last)

    def normalized(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        scale, shift = (values.double()[:, :, None, None] for values in style)
        return (x - mean) * (variance + 1e-5).rsqrt() * scale + shift

    def check(ours: torch.Tensor, within: torch.Tensor) -> None:
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        expected, close = F.pad(within, (1, 1, 1, 1), mode="reflect"), CLOSE[steps, dtype]
        torch.testing.assert_close(ours.double(), expected, rtol=close, atol=close)

    height, width = size
    # As a style's numbers are where torch normalizes, which wants them so.
    style = tuple(
        values.to(dtype).float()
        for values in (torch.rand(styles, channels) + 0.1, torch.randn(styles, channels))
    )
    taken = [steps.ready(values) for values in style]
    x = numbers(height, width)
    check(steps.rectified(x, *taken), normalized(x).relu())
    around = numbers(height + 2, width + 2)
    added = around.double()[:, :, 1:-1, 1:-1] + normalized(x)
    check(steps.add_(around, x, *taken), added)
    windows = numbers(height + 1, width + 1, 4 * channels)
    check(steps.raised(windows, *taken), normalized(phases(windows)).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("border", [1, 2])
@pytest.mark.parametrize("last", [False, True])
def test_a_photo_enters_as_torch_has_it(last: bool, border: int, dtype: torch.dtype) -> None:
    photos = torch.randint(0, 256, (2, 3, 12, 20), dtype=torch.uint8)
    if last:
        photos = photos.contiguous(memory_format=torch.channels_last)
    ours = fused.entered(photos, border, dtype)
    assert torch.equal(ours, eager.entered(photos, border, dtype))
    assert ours.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_result_is_rounded_clamped_and_as_strong_as_asked(dtype: torch.dtype) -> None:
    x = (torch.randn(3, 12, 8, 10) * 0.5 + 0.5).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    photos = torch.randint(0, 256, (3, 3, 16, 20), dtype=torch.uint8)
    strengths = torch.tensor([1.0, 0.3, 0.0])
    styled = pixel_shuffle(x).float().clamp(0, 1) * 255
    expected = torch.lerp(photos.float(), styled, strengths[:, None, None, None])
    result = fused.finished(x, photos, strengths)
    assert (result.float() - expected).abs().max() < 0.501
    assert torch.equal(result[2], photos[2])
    assert {0, 255} < set(result[0].unique().tolist())


def test_statistics_are_right_where_all_is_nearly_the_same() -> None:
    x = torch.full((1, 8, 64, 64), 200.0)
    x[:, :, 0, :3] = 201.0
    x = x.contiguous(memory_format=torch.channels_last)
    scale, shift = fused.ready(torch.ones(1, 8)), fused.ready(torch.zeros(1, 8))
    expected = F.group_norm(x.double(), 8).relu().float()
    torch.testing.assert_close(
        fused.rectified(x, scale, shift)[:, :, 1:-1, 1:-1], expected, rtol=1e-4, atol=1e-4
    )


def test_a_gpu_and_what_numba_has_no_numbers_for_are_left_to_torch() -> None:
    cpu = torch.device("cpu")
    assert inference._steps(cpu, torch.float32) is fused
    assert inference._steps(cpu, torch.bfloat16) is fused
    assert inference._steps(cpu, torch.float16) is eager
    assert inference._steps(torch.device("cuda"), torch.bfloat16) is eager


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixes", [1, 2])
def test_on_a_gpu_all_that_it_makes_stays_there(dtype: torch.dtype, mixes: int) -> None:
    """With tensors of a GPU that have a shape, a dtype and a layout, but no memory."""
    with FakeTensorMode(), torch.device("cuda"), torch.inference_mode():
        made = FastInference(FastTransformNet(3, half=8, quarter=12, blocks=2), dtype)
        photos = torch.empty(2, 61, 47, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        result = made(_padded(photos, made.stride), torch.empty(mixes, 3))
        assert result.shape == (2, 3, 64, 48)
        assert (result.device.type, result.dtype) == ("cuda", dtype)
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_without_numba_it_runs_and_says_so(
    network: FastTransformNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photos, mix = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8), torch.eye(3)[:1]
    with torch.inference_mode():
        expected = FastInference(network, torch.float32)(photos, mix)
        monkeypatch.delattr("pipeline.networks.fused")
        monkeypatch.setitem(sys.modules, "pipeline.networks.fused", None)
        without = FastInference(network, torch.float32)
        torch.testing.assert_close(without(photos, mix), expected, rtol=1e-4, atol=1e-4)
    assert not without.finishes
    assert "without Numba" in caplog.text
