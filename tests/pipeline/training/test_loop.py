"""Training: it learns, it writes a pack, and it goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from pipeline.codec import encode
from pipeline.errors import RequestError
from pipeline.styles.mix import Mix
from pipeline.styles.pack import read_pack
from pipeline.stylizer import Stylizer
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Step, Trainer, read_painting
from pipeline.training.preview import preview
from tests.conftest import jpeg, picture, write_photos

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where something else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small feature network with random weights."""
    torch.manual_seed(0)
    weights = {"conv0.weight": torch.eye(3)[:, :, None, None], "conv0.bias": torch.zeros(3)}
    channels = 3
    for block, width in enumerate((8, 12, 16, 16, 16), start=1):
        weights[f"conv{block}_1.weight"] = torch.randn(width, channels, 3, 3) / channels**0.5 / 2
        weights[f"conv{block}_1.bias"] = 0.1 * torch.randn(width)
        channels = width
    path = tmp_path_factory.mktemp("features") / "small.safetensors"
    save_file(weights, path)
    return str(path)


@pytest.fixture
def make(tmp_path: Path, features: str) -> Make:
    """Makes the settings of a short run on two paintings."""
    write_photos(tmp_path / "photos", 6)
    for name in ("waves", "stars"):
        painting = encode(picture(90, 70, seed=len(name)), "jpg", 90)
        (tmp_path / f"{name}.jpg").write_bytes(painting)

    def made(**settings: Any) -> TrainConfig:
        settings = {
            "images": [str(tmp_path / "waves.jpg"), str(tmp_path / "stars.jpg")],
            "content": str(tmp_path / "photos"), "features": features, "device": "cpu",
            "out": str(tmp_path / "mine.safetensors"), "steps": 6, "batch": 2, "crop": 64,
            "style_size": 64, "checkpoint_every": 2, **settings,
        }  # fmt: skip
        return TrainConfig.model_validate(settings)

    return made


def train(config: TrainConfig, stop_after: int | None = None) -> list[Step]:
    """Runs until the end, or is interrupted after a step."""
    steps: list[Step] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        if step.number == stop_after:
            raise KeyboardInterrupt

    Trainer(config).run(on_step, lambda: None)
    return steps


def test_a_run_lowers_the_loss(make: Make, tmp_path: Path) -> None:
    config = make(images=[str(tmp_path / "waves.jpg")], steps=50, batch=2, learning_rate=5e-3)
    steps = train(config)
    style = [step.style for step in steps]
    assert [step.number for step in steps] == list(range(1, 51))
    assert np.mean(style[-8:]) < 0.7 * np.mean(style[:8])


def test_a_run_writes_a_pack_that_can_be_used(make: Make, tmp_path: Path) -> None:
    cards = {
        "stars": {"title": "The Starry Night", "artist": "van Gogh", "year": 1889,
                  "rights": "public domain", "source": "oil on canvas", "note": "left out"}
    }  # fmt: skip
    (tmp_path / "cards.json").write_text(json.dumps(cards))
    config = make(cards=str(tmp_path / "cards.json"), seed=5)
    train(config)

    pack = read_pack(Path(config.pack))
    assert pack.names == ["waves", "stars"]
    waves, stars = pack.cards
    assert (waves.title, waves.artist) == ("", "")
    assert (stars.title, stars.artist, stars.year) == ("The Starry Night", "van Gogh", "1889")
    assert (stars.rights, stars.source) == ("public domain", "oil on canvas")
    told = stars.training
    assert (told["steps"], told["crop"], told["seed"], told["photos"]) == (6, 64, 5, 6)
    assert told["features"] == "small.safetensors"
    assert told["device"] == "cpu"

    photos = picture()[None].repeat(2, axis=0)
    result = Stylizer(pack, "cpu", "fp32")(photos, [Mix({"waves": 1}), Mix({"stars": 1})], [1, 1])
    assert result.std() > 1
    assert not np.array_equal(result[0], result[1])


def test_checkpoints_are_written_and_removed_at_the_end(make: Make, tmp_path: Path) -> None:
    config, seen = make(), []
    trainer = Trainer(config)
    trainer.run(lambda _: None, lambda: seen.append((trainer.step, trainer.checkpoint.exists())))
    assert seen == [(2, True), (4, True), (6, True)]
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {"waves.jpg", "stars.jpg", "mine.safetensors"}


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    make: Make, tmp_path: Path, stop_after: int
) -> None:
    whole = train(make(out=str(tmp_path / "whole.safetensors")))
    config = make(out=str(tmp_path / "stopped.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        train(config, stop_after)
    assert not Path(config.pack).exists()
    rest = train(config)

    # The last checkpoint before it was stopped: every second step, written after on_step.
    first = (stop_after - 1) // 2 * 2
    assert rest == whole[first:]
    ours, theirs = load_file(config.pack), load_file(tmp_path / "whole.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_seed_decides_everything(make: Make, tmp_path: Path) -> None:
    packs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = make(out=str(tmp_path / f"{name}.safetensors"), seed=seed, steps=2)
        train(config)
        packs.append(load_file(config.pack))
    assert all(torch.equal(packs[0][name], packs[1][name]) for name in packs[0])
    assert not torch.equal(packs[0]["styles"], packs[2]["styles"])


@pytest.mark.parametrize(
    "change", [{"steps": 8}, {"seed": 1}, {"content_weight": 1.0}, {"style_loss": "gram"}]
)
def test_a_checkpoint_of_other_settings_is_refused(make: Make, change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(make(), stop_after=3)
    with pytest.raises(RequestError, match=r"mine\.checkpoint is from a run with other settings"):
        Trainer(make(**change))


def test_where_and_how_often_to_save_are_not_other_settings(make: Make) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(make(), stop_after=3)
    assert Trainer(make(checkpoint_every=100, device="auto")).step == 2


def test_every_style_is_trained(make: Make) -> None:
    trainer = Trainer(make(steps=8))
    before = trainer.network.styles.detach().clone()
    trainer.run(lambda _: None, lambda: None)
    changed = (trainer.network.styles.detach() - before).abs().sum(1)
    assert (changed > 0).all()
    assert not torch.equal(trainer.network.styles[0], trainer.network.styles[1])


@pytest.mark.parametrize("content", [None, b"", b"<html>", jpeg()[:300]])
def test_a_bad_painting_is_refused_by_its_name(
    make: Make, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(RequestError, match=r"bad\.jpg cannot be read as an image"):
        Trainer(make(images=[str(tmp_path / "bad.jpg")]))


def test_a_folder_is_no_painting(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="photos cannot be read as an image"):
        Trainer(make(images=[str(tmp_path / "photos")]))


@pytest.mark.parametrize("content", [b"no safetensors", None])
def test_a_bad_feature_network_is_refused_by_its_name(
    make: Make, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "bad_features.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match="bad_features"):
        Trainer(make(features=str(path)))


@pytest.mark.parametrize("text", [None, "{", "[1]", '["waves"]', '{"waves": "blue"}'])
def test_bad_cards_are_refused_by_their_name(make: Make, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cards.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RequestError, match=r"cards\.json is not a JSON object of cards"):
        Trainer(make(cards=str(path)))


def test_photos_that_are_not_there_are_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty"):
        Trainer(make(content=str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("shape", "expected"), [((90, 60), (43, 64)), ((60, 90), (64, 43)), ((200, 200), (64, 64))]
)
def test_a_paintings_longer_side_is_scaled(
    tmp_path: Path, shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    (tmp_path / "painting.jpg").write_bytes(jpeg(*shape))
    assert read_painting(str(tmp_path / "painting.jpg"), 64).shape == (*expected, 3)


@pytest.mark.parametrize("shape", [(300, 10), (10, 300), (2000, 10)])
def test_a_painting_too_narrow_to_look_at_is_refused_by_its_name(
    make: Make, tmp_path: Path, shape: tuple[int, int]
) -> None:
    (tmp_path / "scroll.png").write_bytes(encode(picture(*shape), "png", 90))
    with pytest.raises(RequestError, match=r"scroll\.png"):
        Trainer(make(images=[str(tmp_path / "scroll.png")]))


# Settings


def test_styles_are_called_by_their_files_or_as_told(make: Make) -> None:
    config = make(images=["a/The Wave.jpg", "b/stars.v2.png"], out="")
    assert config.names == ("The_Wave", "stars.v2")
    assert config.pack == "The_Wave.safetensors"
    assert make(name=("one", "two"), out="").pack == "one.safetensors"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": []}, "images"),
        ({"name": ("one",)}, "2 images but 1 names"),
        ({"name": ("one", "one")}, "two styles have one name"),
        ({"images": ["a/wave.jpg", "b/wave.jpg"]}, "two styles have one name"),
        ({"name": ("a,b", "c")}, "'a,b' cannot name a style"),
        ({"name": ("a+b", "c")}, "cannot name a style"),
        ({"name": ("a:1", "c")}, "cannot name a style"),
        ({"steps": 0}, "steps"),
        ({"crop": 32}, "crop"),
        ({"style_loss": "mse"}, "style_loss"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    make: Make, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        make(**settings)


# Preview


def test_a_preview_has_the_photos_above_and_a_row_for_each_painting(
    make: Make, tmp_path: Path
) -> None:
    trainer = Trainer(make())
    photos = trainer.content.batch(3, 0)
    sheet = np.asarray(preview(trainer.network, trainer.paintings, photos))
    assert sheet.shape == (3 * 64, 4 * 64, 3)
    assert np.array_equal(sheet[:64, 64:], np.concatenate(list(photos), axis=1))
    for row, painting in enumerate(trainer.paintings, start=1):
        left = sheet[row * 64 : (row + 1) * 64, :64].astype(int)
        assert abs(left.mean() - painting.mean()) < 15
