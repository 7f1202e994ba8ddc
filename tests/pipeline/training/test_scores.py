"""The score card, and a pack's evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flows.cli import main
from pipeline.codec import encode
from pipeline.errors import RequestError
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.features import load_features
from pipeline.networks.johnson import JohnsonNet
from pipeline.styles.pack import Card, read_pack, save_pack
from pipeline.training.evaluate import evaluate
from pipeline.training.scores import Scores, score
from tests.conftest import picture, write_photos

Painter = Callable[[Tensor], Tensor]


class As(nn.Module):
    """A network that is some function of the photo."""

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        self.painter = painter

    def forward(self, photos: Tensor, mix: Tensor) -> Tensor:
        return self.painter(photos)


@pytest.fixture
def photos() -> Tensor:
    return torch.stack(
        [torch.from_numpy(picture(64, 64, seed=n)).permute(2, 0, 1) / 255 for n in range(3)]
    )


@pytest.fixture
def painting() -> Tensor:
    return torch.rand(1, 3, 80, 64, generator=torch.Generator().manual_seed(5))


def scored(painter: Painter, photos: Tensor, painting: Tensor, features: str) -> Scores:
    network: Any = As(painter)
    return score(network, torch.ones(1, 1), photos, painting, load_features(features))


def test_a_network_that_does_nothing_leaves_all_of_the_photo(
    photos: Tensor, painting: Tensor, small_features: str
) -> None:
    scores = scored(lambda x: x, photos, painting, small_features)
    assert (scores.content, scores.ssim, scores.edges) == pytest.approx((0, 1, 1), abs=1e-4)
    assert scores.jitter == pytest.approx(1)
    assert min(scores.texture, scores.strokes) > 0.01
    assert scores.colour > 0.01


def test_a_network_that_gives_the_painting_leaves_nothing_of_the_photo(
    photos: Tensor, painting: Tensor, small_features: str
) -> None:
    scores = scored(lambda x: painting.expand(3, -1, -1, -1)[:, :, :64], photos,
                    painting[:, :, :64], small_features)  # fmt: skip
    assert (scores.texture, scores.strokes, scores.colour) == pytest.approx((0, 0, 0), abs=1e-6)
    assert scores.noise == pytest.approx(1)
    assert scores.jitter == 0
    assert scores.content > 0.5
    assert scores.ssim < 0.3


def test_noise_and_jitter_grow_with_contrast(
    photos: Tensor, painting: Tensor, small_features: str
) -> None:
    plain, faint = (
        scored(lambda x, s=s: 0.5 + s * (x - 0.5), photos, painting, small_features)
        for s in (1.0, 0.5)
    )
    assert faint.noise == pytest.approx(plain.noise / 2, rel=1e-4)
    assert faint.jitter == pytest.approx(0.5)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack of two styles, with their paintings and photos beside it."""
    torch.manual_seed(0)
    cards = [
        Card(name, training={"painting": f"{name}.png", "style_size": 64})
        for name in ("one", "two")
    ]
    save_pack(tmp_path / "mine.safetensors", FastTransformNet(2, 8, 8, 1), cards)
    (tmp_path / "paintings").mkdir()
    for n, name in enumerate(("one", "two")):
        painting = encode(picture(80, 70, seed=n + 50), "png", 90)
        (tmp_path / "paintings" / f"{name}.png").write_bytes(painting)
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"<html>")
    return tmp_path / "mine.safetensors"


def test_a_pack_is_scored_style_by_style(pack: Path, small_features: str) -> None:
    folder = pack.parent
    done = list(
        evaluate(read_pack(pack), str(folder / "paintings"), str(folder / "photos"),
                 small_features, 64, "cpu")
    )  # fmt: skip
    assert [one.card.name for one in done] == ["one", "two"]
    assert {one.photos for one in done} == {3}
    assert done[0].scores.texture != done[1].scores.texture
    assert done[0].sheet.size == (4 * 64, 2 * 64)


def test_the_command_prints_draws_and_saves(
    pack: Path, small_features: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, before = pack.parent, read_pack(pack)
    arguments = [
        "evaluate", str(pack), "--paintings", str(folder / "paintings"), "--content",
        str(folder / "photos"), "--features", small_features, "--size", "64",
    ]  # fmt: skip
    assert main([*arguments, "--sheets", str(folder / "sheets")]) == 0
    assert "texture" in capsys.readouterr().out
    assert {path.name for path in (folder / "sheets").iterdir()} == {"one.jpg", "two.jpg"}
    assert read_pack(pack).digest == before.digest

    assert main([*arguments, "--json", "--save"]) == 0
    said = json.loads(capsys.readouterr().out)
    after = read_pack(pack)
    assert {card.name: card.quality for card in after.cards} == said
    assert said["one"]["judge"] == "small.safetensors"
    weights = [p.load().state_dict() for p in (before, after)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_cannot_be_scored_is_said(pack: Path, small_features: str, tmp_path: Path) -> None:
    folder = pack.parent
    rest = (str(folder / "photos"), small_features, 64, "cpu")
    (folder / "paintings" / "two.png").unlink()
    with pytest.raises(RequestError, match=r"no two\.png, the painting of 'two'"):
        next(evaluate(read_pack(pack), str(folder / "paintings"), *rest))
    torch.save(JohnsonNet().state_dict(), tmp_path / "candy.pth")
    with pytest.raises(RequestError, match="card of 'candy' does not say which painting"):
        next(evaluate(read_pack(tmp_path / "candy.pth"), str(folder), *rest))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"--device": "gpu"}, "--device gpu: give auto, cpu"),
        ({"--sheets": "mine.safetensors"}, "mine.safetensors is no folder to write in"),
        ({"--sheets": "s3://bucket/sheets"}, "s3://bucket/sheets is a URL"),
        ({"--sheets": "paintings"}, "--sheets paintings has what is scored"),
        ({"--sheets": "photos/../photos"}, "has what is scored"),
        ({"--content": "nowhere"}, "nowhere"),
        ({"--paintings": "flat"}, "two.png is of one colour"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_judge_is_fetched(
    pack: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: dict[str, str],
    said: str,
) -> None:
    folder = pack.parent
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pipeline.training.evaluate.load_features", lambda _: pytest.fail("late"))
    (folder / "flat").mkdir()
    (folder / "flat" / "one.png").write_bytes((folder / "paintings" / "one.png").read_bytes())
    flat = np.full((80, 70, 3), 99, np.uint8)
    (folder / "flat" / "two.png").write_bytes(encode(flat, "png", 90))
    options = {"--paintings": "paintings", "--content": "photos", "--size": "64"} | wrong
    assert main(["evaluate", str(pack), *(text for each in options.items() for text in each)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("size", [250, 28, 0, -4])
def test_a_size_that_the_network_does_not_keep_is_refused_before_all_else(
    pack: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--paintings", "none", "--content", "none", "--size", str(size)]
    assert main(["evaluate", str(pack), *arguments]) == 2
    assert f"--size {size}: give a multiple of 4 from 32 on" in capsys.readouterr().err


def test_the_smallest_size_can_be_scored(pack: Path, small_features: str) -> None:
    folder = pack.parent
    places = (str(folder / "paintings"), str(folder / "photos"))
    done = next(evaluate(read_pack(pack), *places, small_features, 32, "cpu"))
    assert all(value == value for value in vars(done.scores).values())
