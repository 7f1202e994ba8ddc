"""Images in strips against the same in one piece."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline import room, tiling
from pipeline.codec import Pixels
from pipeline.networks import eager, fused, inference
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.inference import FastInference
from pipeline.tiling import StripNetwork
from pipeline.workers import WORKER_ENVIRONMENT


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def photo(height: int, width: int) -> Pixels:
    """Light above, dark below, so that no strip has the statistics of the whole."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (picture * np.linspace(1, 0.1, height)[:, None, None]).astype(np.uint8)


@pytest.fixture
def network() -> FastTransformNet:
    torch.manual_seed(0)
    made = FastTransformNet(2, half=8, quarter=12, blocks=2)
    made.styles.data += 0.3 * torch.randn_like(made.styles)
    return made


def in_one_piece(
    network: FastTransformNet, image: Pixels, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What the network makes of an image whose sides are multiples of 4."""
    given = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return FastInference(network, dtype)(given, torch.tensor([[0.3, 0.7]])).float()


def in_strips(
    network: FastTransformNet,
    image: Pixels,
    threads: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, list[tuple[int, int]]]:
    result = torch.full((1, 3, *image.shape[:2]), torch.nan)
    spans = []

    def finish(strip: Tensor, span: tuple[int, int]) -> None:
        result[:, :, slice(*span)] = strip.float()
        spans.append(span)

    style = (torch.tensor([[0.3, 0.7]]) @ network.styles.detach())[0]
    whole = FastInference(network, dtype)
    StripNetwork(whole, style, image, threads, lambda: None).run(finish)
    return result, sorted(spans)


@pytest.fixture(params=[fused, eager], ids=["fused", "eager"])
def _steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done between convolutions, on a CPU and elsewhere."""
    monkeypatch.setattr(inference, "_steps", lambda *_: request.param)


@pytest.mark.usefixtures("_steps")
@pytest.mark.parametrize("strip_pixels", [1, 3000, 20_000, 10**9])
@pytest.mark.parametrize("threads", [1, 3])
def test_strips_make_the_same_picture(
    network: FastTransformNet,
    monkeypatch: pytest.MonkeyPatch,
    strip_pixels: int,
    threads: int,
) -> None:
    monkeypatch.setattr(tiling, "STRIP_PIXELS", strip_pixels)
    image = photo(200, 132)
    result, spans = in_strips(network, image, threads)
    assert (result - in_one_piece(network, image)).abs().max() < 1e-3
    assert len(spans) == {1: 25, 3000: 10, 20_000: 2, 10**9: 1}[strip_pixels]
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]


@pytest.mark.parametrize("level", [0, 255])
def test_a_page_with_next_to_nothing_on_it_is_what_it_should_be(
    network: FastTransformNet, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    monkeypatch.setattr(tiling, "STRIP_PIXELS", 64 * 256)
    page = np.full((512, 256, 3), level, np.uint8)
    page[np.random.default_rng(0).integers(0, 256, (2, 20))[0], :4] = 128
    given = torch.from_numpy(page).permute(2, 0, 1)[None].double() / 255
    with torch.inference_mode():
        exact = network.double()(given, torch.tensor([[0.3, 0.7]], dtype=torch.float64)).float()
    network.float()
    for result in (in_strips(network, page)[0], in_one_piece(network, page)):
        assert (result.clamp(0, 1) - exact.clamp(0, 1)).abs().max() < 2 / 255


@pytest.mark.parametrize(("height", "width"), [(33, 47), (61, 40), (130, 35), (32, 32)])
def test_sides_need_not_be_multiples_of_anything(
    network: FastTransformNet,
    monkeypatch: pytest.MonkeyPatch,
    height: int,
    width: int,
) -> None:
    monkeypatch.setattr(tiling, "STRIP_PIXELS", 500)
    image = photo(height, width)
    down, right = -height % 4, -width % 4
    padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="reflect")
    whole = in_one_piece(network, padded)[:, :, :height, :width]
    assert (in_strips(network, image)[0] - whole).abs().max() < 1e-3


@pytest.mark.usefixtures("_steps")
def test_in_bfloat16_it_is_the_same_but_for_rounding(
    network: FastTransformNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "STRIP_PIXELS", 5000)
    image = photo(200, 132)
    ours = in_strips(network, image, dtype=torch.bfloat16)[0].clamp(0, 1)
    difference = (ours - in_one_piece(network, image, torch.bfloat16).clamp(0, 1)).abs()
    assert difference.mean() < 1 / 255
    assert difference.quantile(0.999) < 3 / 255


def test_activations_may_lie_in_files(
    network: FastTransformNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "STRIP_PIXELS", 5000)
    image = photo(96, 64)
    in_memory = in_strips(network, image)[0]
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    in_files = in_strips(network, image)[0]
    assert not torch.equal(in_files, in_memory)
    assert (in_files - in_memory).abs().max() < 1 / 255


PEAK = """
import sys
import numpy as np, torch
from pipeline.styles.mix import Mix
from pipeline.styles.pack import find_pack
from pipeline.stylizer import Stylizer
import pipeline.stylizer
from tests.processes import memory

torch.set_num_threads(1)
pack = find_pack("")
stylizer = Stylizer(pack, "cpu", "fp32", threads=2)
if sys.argv[2] == "whole":
    pipeline.stylizer.IN_ONE_PIECE["cpu"] = 10**9
photos = np.load(sys.argv[1])[None]
stylizer(photos[:, :64, :64], [Mix({pack.names[0]: 1.0})], [1.0])
before = memory("VmHWM")
np.save(sys.argv[3], stylizer(photos, [Mix({pack.names[0]: 1.0})], [1.0])[0])
print(memory("VmHWM") - before)
"""


@pytest.mark.extra
def test_a_large_image_looks_the_same_and_takes_less_memory(tmp_path: Path) -> None:
    # Not larger: torch's own sums over a channel of 2000 x 2000 float32 lose what is compared.
    np.save(tmp_path / "photo.npy", photo(2100, 2800))
    peaks, results = {}, {}
    for way in ("whole", "strips"):
        command = [sys.executable, "-c", PEAK, str(tmp_path / "photo.npy"), way]
        done = subprocess.run(
            [*command, str(tmp_path / f"{way}.npy")], capture_output=True, text=True, check=True,
            env=os.environ | WORKER_ENVIRONMENT, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        peaks[way] = int(done.stdout)
        results[way] = np.load(tmp_path / f"{way}.npy").astype(int)
    assert np.abs(results["whole"] - results["strips"]).max() <= 2
    assert peaks["strips"] < 0.8 * peaks["whole"]
