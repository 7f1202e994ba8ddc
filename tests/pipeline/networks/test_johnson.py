"""Johnson's network against a plain one, and checkpoints of the PyTorch examples as packs."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.codec import Pixels
from pipeline.errors import RequestError
from pipeline.networks.johnson import from_example_checkpoint
from pipeline.styles.mix import Mix
from pipeline.styles.pack import read_pack
from pipeline.stylizer import Stylizer
from tests.conftest import picture


class PaddedConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d(self.reflection_pad(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.in1 = PaddedConv(128, 128, 3), nn.InstanceNorm2d(128, affine=True)
        self.conv2, self.in2 = PaddedConv(128, 128, 3), nn.InstanceNorm2d(128, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.in2(self.conv2(torch.relu(self.in1(self.conv1(x))))) + x


class Example(nn.Module):
    """The network of the PyTorch examples, whose pixels run from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 64, 32)
        for number in (1, 2, 3):
            kernel, stride = (9, 1) if number == 1 else (3, 2)
            conv = PaddedConv(widths[number - 1], widths[number], kernel, stride)
            self.add_module(f"conv{number}", conv)
        for number in range(1, 6):
            self.add_module(f"in{number}", nn.InstanceNorm2d(widths[number], affine=True))
            self.add_module(f"res{number}", Residual())
        self.deconv1, self.deconv2 = PaddedConv(128, 64, 3), PaddedConv(64, 32, 3)
        self.deconv3 = PaddedConv(32, 3, 9)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        def layer(name: str, norm: str, x: Tensor) -> Tensor:
            return torch.relu(self.get_submodule(norm)(self.get_submodule(name)(x)))

        for number in (1, 2, 3):
            x = layer(f"conv{number}", f"in{number}", x)
        for number in range(1, 6):
            x = self.get_submodule(f"res{number}")(x)
        x = layer("deconv1", "in4", self.upsample(x))
        x = layer("deconv2", "in5", self.upsample(x))
        return self.deconv3(x)


@pytest.fixture(scope="module")
def example() -> Example:
    """With random weights whose results fill the range of a picture."""
    torch.manual_seed(0)
    network = Example().eval()
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    network.deconv3.conv2d.weight.data *= 150
    network.deconv3.conv2d.bias.data.fill_(128)
    return network


def checkpoint(example: Example) -> dict[str, Tensor]:
    """As PyTorch before 0.4 wrote it: with statistics that nothing used."""
    state = dict(example.state_dict())
    for name in [key.removesuffix(".weight") for key in state if ".in" in f".{key}"]:
        if name.endswith(".bias"):
            continue
        state[f"{name}.running_mean"] = torch.randn_like(state[f"{name}.weight"])
        state[f"{name}.running_var"] = torch.rand_like(state[f"{name}.weight"])
    return state


def plain_forward(example: Example, photos: Pixels) -> Pixels:
    with torch.inference_mode():
        result = example(torch.from_numpy(photos).permute(0, 3, 1, 2).float()).clamp(0, 255)
    return result.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("suffix", "new_file_format"),
    [(".pth", True), (".pth", False), (".pt", True), (".model", False)],
)
def test_a_checkpoint_of_the_examples_gives_the_examples_pictures(
    example: Example, tmp_path: Path, suffix: str, new_file_format: bool
) -> None:
    path = tmp_path / f"mosaic{suffix}"
    state = checkpoint(example)
    assert len(state) == 62 + 2 * 15
    torch.save(state, path, _use_new_zipfile_serialization=new_file_format)
    photos = np.stack([picture(64, 48, seed) for seed in range(2)])
    expected = plain_forward(example, photos)
    assert expected.std() > 40

    pack = read_pack(path)
    assert pack.names == ["mosaic"]
    stylizer = Stylizer(pack, "cpu", "fp32")
    result = stylizer(photos, [Mix({"mosaic": 1.0})] * 2, [1.0, 1.0])
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_the_network_works_on_0_to_1(example: Example) -> None:
    network = from_example_checkpoint(checkpoint(example))
    photos = torch.rand(1, 3, 32, 36)
    with torch.inference_mode():
        torch.testing.assert_close(
            network(photos), example(photos * 255) / 255, rtol=1e-3, atol=1e-3
        )
    assert not network.training


def spoiled(state: dict[str, Tensor], how: str) -> dict[str, Any]:
    if how == "foreign key":
        return state | {"encoder.weight": torch.zeros(3)}
    if how == "missing key":
        return {key: value for key, value in state.items() if key != "deconv3.conv2d.bias"}
    if how == "wrong shape":
        return state | {"conv1.conv2d.weight": torch.zeros(32, 3, 3, 3)}
    return {"state_dict": state}


@pytest.mark.parametrize("how", ["foreign key", "missing key", "wrong shape", "wrapped"])
def test_another_networks_checkpoint_is_refused(example: Example, tmp_path: Path, how: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(spoiled(checkpoint(example), how), path)
    with pytest.raises(RequestError, match=r"other\.pth: the weights cannot be loaded"):
        read_pack(path).load()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"bad\.pth"):
        read_pack(path).load()


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("new_file_format", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, new_file_format: bool) -> None:
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    torch.save({"x": Trap(sprung)}, path, _use_new_zipfile_serialization=new_file_format)
    with pytest.raises(RequestError, match=r"trap\.pth"):
        read_pack(path).load()
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()


def saved_on_a_gpu(state: dict[str, Tensor], path: Path) -> None:
    """A checkpoint whose tensors say that they lay on a GPU."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                cpu, cuda = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"
                assert cpu in data
                data = data.replace(cpu, cuda)
            new.writestr(name, data)


def test_a_checkpoint_saved_on_a_gpu_loads_without_one(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "gpu.pth"
    saved_on_a_gpu(checkpoint(example), path)
    network = read_pack(path).load()
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
