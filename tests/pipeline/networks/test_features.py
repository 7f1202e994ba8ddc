"""Feature networks against torchvision's own; weights are random, nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.networks.features import FeatureNet, load_features

# Layers of torchvision's VGG after which relu1_1 .. relu5_1 stand.
RELUS = {"vgg16": (1, 6, 11, 18, 25), "vgg19": (1, 6, 11, 20, 29)}
WIDTHS = (4, 6, 8, 10, 12)


def small_weights(seed: int = 0) -> dict[str, Tensor]:
    """As FeatureNet takes them: two convolutions in each block but the last."""
    torch.manual_seed(seed)
    weights = {"conv0.weight": torch.randn(3, 3, 1, 1), "conv0.bias": torch.randn(3)}
    channels = 3
    for block, width in enumerate(WIDTHS, start=1):
        for depth in (1, 2) if block < 5 else (1,):
            weights[f"conv{block}_{depth}.weight"] = torch.randn(width, channels, 3, 3) / channels
            weights[f"conv{block}_{depth}.bias"] = 0.1 * torch.randn(width)
            channels = width
    return weights


@pytest.fixture
def unfetched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """torchvision's VGGs with random weights; the last one that was asked for."""
    # Not above: every process of the tests would need the seconds that this takes.
    import torchvision.models
    from torchvision.models.vgg import cfgs, make_layers

    asked: dict[str, Any] = {}

    def get_model(name: str, weights: str | None = None) -> SimpleNamespace:
        torch.manual_seed(0)
        features = make_layers(cfgs[{"vgg16": "D", "vgg19": "E"}[name]], batch_norm=False)
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.normal_(layer.bias, std=0.1)
        asked.update(name=name, weights=weights, features=features.eval())
        return SimpleNamespace(features=features)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    return asked


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_torchvisions_layers_come_out_as_torchvision_computes_them(
    unfetched: dict[str, Any], name: str
) -> None:
    images = torch.rand(2, 3, 48, 64)
    ours = load_features(name)(images)
    assert (unfetched["name"], unfetched["weights"]) == (name, "IMAGENET1K_V1")
    from torchvision.transforms.functional import normalize

    x = normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    theirs = []
    with torch.no_grad():
        for index, layer in enumerate(unfetched["features"]):
            x = layer(x)
            if index in RELUS[name]:
                theirs.append(x.clone())
    assert [layer.shape[1] for layer in ours] == [64, 128, 256, 512, 512]
    for our, their in zip(ours, theirs, strict=True):
        assert their.std() > 0.1
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-3)


def test_a_file_of_weights_is_run_with_reflecting_borders(tmp_path: Path) -> None:
    weights = small_weights()
    save_file(weights, tmp_path / "small.safetensors")
    images = torch.rand(2, 3, 32, 48)
    ours = load_features(str(tmp_path / "small.safetensors"))(images)

    x = F.conv2d(images, weights["conv0.weight"], weights["conv0.bias"])
    for block in range(1, 6):
        for depth in (1, 2) if block < 5 else (1,):
            name = f"conv{block}_{depth}"
            padded = F.pad(x, (1, 1, 1, 1), "reflect")
            x = F.conv2d(padded, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
            if depth == 1:
                torch.testing.assert_close(ours[block - 1], x, rtol=1e-3, atol=1e-4)
        x = F.max_pool2d(x, 2)


def test_heads_say_what_the_large_networks_features_would_be() -> None:
    weights = small_weights()
    heads = {}
    for block in (1, 2, 3, 4):
        heads[f"aux{block}_1.weight"] = torch.randn(20, WIDTHS[block - 1], 1, 1)
        heads[f"aux{block}_1.bias"] = torch.randn(20)
    images = torch.rand(2, 3, 32, 48)
    plain = FeatureNet(weights, "reflect")(images)
    ours = FeatureNet(weights | heads, "reflect")(images)
    for block, (with_head, without) in enumerate(zip(ours, plain, strict=True), start=1):
        expected = without
        if block in (3, 4):  # none at the fifth; the first two need none
            head = heads[f"aux{block}_1.weight"], heads[f"aux{block}_1.bias"]
            expected = F.conv2d(without, *head).relu()
        torch.testing.assert_close(with_head, expected)


def test_a_network_may_end_at_relu4_1() -> None:
    weights = {key: value for key, value in small_weights().items() if "conv5" not in key}
    images = torch.rand(1, 3, 32, 32)
    four, five = (FeatureNet(w, "reflect")(images) for w in (weights, small_weights()))
    assert len(four) == 4
    assert all(torch.equal(a, b) for a, b in zip(four, five, strict=False))


def test_each_layer_has_half_the_size_of_the_one_before() -> None:
    layers = FeatureNet(small_weights(), "reflect")(torch.rand(1, 3, 64, 96))
    assert [tuple(layer.shape) for layer in layers] == [
        (1, width, 64 >> k, 96 >> k) for k, width in enumerate(WIDTHS)
    ]


def test_the_network_is_frozen_but_lets_gradients_through() -> None:
    network = FeatureNet(small_weights(), "reflect")
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(images)[4].sum().backward()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    assert images.grad is not None
    assert images.grad.any()


def test_a_block_without_convolutions_is_named() -> None:
    weights = {key: value for key, value in small_weights().items() if "conv4" not in key}
    with pytest.raises(ValueError, match="conv4_1"):
        FeatureNet(weights, "reflect")


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), RuntimeError('invalid hash value (expected "397923af")')],
)
def test_weights_that_cannot_be_downloaded_are_said(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import torchvision.models

    monkeypatch.setattr(torchvision.models, "get_model", Mock(side_effect=error))
    with pytest.raises(
        ValueError, match=r"vgg16 cannot be downloaded to .*checkpoints.*--features"
    ):
        load_features("vgg16")


@pytest.mark.parametrize("name", ["vgg11", "resnet50", "", "missing.safetensors"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="give vgg16, vgg19 or a safetensors file"):
        load_features(name)


@pytest.mark.parametrize(
    "content", [b"", b"no safetensors at all", b"\xff" * 100], ids=["empty", "text", "ff"]
)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        load_features(str(path))


@pytest.mark.parametrize(
    "change",
    [
        {"conv0.weight": None},
        {"conv3_1.bias": None},
        {"conv3_1.weight": torch.zeros(3)},
        {"conv3_1.bias": torch.zeros(99)},
    ],
    ids=["no conv0", "no bias", "no kernel", "wrong bias"],
)
def test_weights_of_another_network_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None]
) -> None:
    weights = {k: v for k, v in (small_weights() | change).items() if v is not None}
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        load_features(str(tmp_path / "other.safetensors"))
