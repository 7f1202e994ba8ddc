"""Training: it learns, it writes a pack, and it goes on where it was stopped."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from flows.studio import train_pack
from pipeline.codec import Pixels, encode
from pipeline.errors import RequestError, SystemFault
from pipeline.networks.johnson import JohnsonNet
from pipeline.styles.mix import Mix
from pipeline.styles.pack import read_pack
from pipeline.stylizer import Stylizer
from pipeline.training import loop
from pipeline.training.balance import FIRST
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Step, Trainer
from pipeline.training.paintings import read_painting
from tests.conftest import jpeg, picture, write_photos

Make = Callable[..., TrainConfig]

FLOATS = ("blends", "content_weight", "variation_weight", "learning_rate")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where something else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(tmp_path: Path, small_features: str) -> Make:
    """Makes the settings of a short run on two paintings."""
    write_photos(tmp_path / "photos", 6)
    for name in ("waves", "stars"):
        painting = encode(picture(90, 70, seed=len(name)), "jpg", 90)
        (tmp_path / f"{name}.jpg").write_bytes(painting)

    def made(**settings: Any) -> TrainConfig:
        settings = {
            "images": [str(tmp_path / "waves.jpg"), str(tmp_path / "stars.jpg")],
            "content": str(tmp_path / "photos"), "features": small_features, "device": "cpu",
            "out": str(tmp_path / "mine.safetensors"), "steps": 6, "batch": 2, "crop": 64,
            "style_size": 64, "style_scales": 1, "checkpoint_every": 2, **settings,
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
        "waves": {},
        "stars": {"title": "The Starry Night", "artist": "van Gogh", "year": 1889,
                  "rights": "public domain", "source": "oil on canvas", "note": "left out"},
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


@pytest.mark.parametrize(
    "settings",
    [
        {"style_loss": "gram"}, {"style_scales": 2}, {"blends": 1.0},
        {"content_loss": "features"}, {"content_loss": "ssim"}, {"content_loss": "gradient"},
        {"content_weight": 2.0}, {"variation_weight": 0.0},
    ],
)  # fmt: skip
def test_every_setting_trains_and_differently(make: Make, settings: dict[str, Any]) -> None:
    crops = {"crop": 96, "style_size": 96, "steps": 4}
    plain, other = train(make(**crops)), train(make(**crops, **settings))
    assert all(np.isfinite([step.style, step.content, step.variation]).all() for step in other)
    assert plain[-1] != other[-1]


def test_variation_below_the_paintings_is_free_unless_it_is_plain(
    make: Make, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    (tmp_path / "noise.png").write_bytes(encode(noise, "png", 90))
    steps = {}
    for loss in ("hinge", "plain"):
        for weight in (0.0, 5.0):
            config = make(images=[str(tmp_path / "noise.png")], variation_loss=loss,
                          variation_weight=weight, steps=3)  # fmt: skip
            steps[loss, weight] = train(config)[-1]
    assert steps["hinge", 0.0] == steps["hinge", 5.0]
    assert steps["plain", 0.0] != steps["plain", 5.0]


def test_the_strength_asked_for_is_the_target(make: Make) -> None:
    low, medium, high = (
        Trainer(make(strength_target=name))._content_weights.target
        for name in ("low", "medium", "high")
    )
    assert low < medium < high


def test_weights_of_experts_stay_as_they_are(make: Make) -> None:
    config = make(content_weight=2.0)
    train(config)
    assert {card.training["content_weight"] for card in read_pack(Path(config.pack)).cards} == {2.0}


def test_what_is_saved_is_an_average_of_the_last_steps(make: Make) -> None:
    trainer = Trainer(make(steps=40, checkpoint_every=20))
    trainer.run(lambda _: None, lambda: None)
    average = trainer.average.styles
    last = trainer._network.styles.detach()
    assert not torch.equal(average, last)
    assert (average - last).abs().max() < 0.1


# Adding to a pack, and starting from one


@pytest.fixture
def base(make: Make, tmp_path: Path) -> Path:
    """A pack of two styles, waves and stars."""
    config = make(out=str(tmp_path / "base.safetensors"))
    train(config)
    return Path(config.pack)


def test_styles_are_added_and_the_others_stay_bit_for_bit(
    make: Make, tmp_path: Path, base: Path
) -> None:
    (tmp_path / "moon.jpg").write_bytes(jpeg(90, 70, seed=9))
    config = make(images=[str(tmp_path / "moon.jpg")], add_to=str(base), steps=40,
                  learning_rate=2e-3)  # fmt: skip
    steps = train(config)
    before, after = read_pack(base), read_pack(Path(config.pack))
    assert after.names == ["waves", "stars", "moon"]
    assert after.cards[:2] == before.cards
    assert after.cards[2].training["from"] == "base.safetensors"

    ours, theirs = load_file(config.pack), load_file(base)
    assert torch.equal(ours["styles"][:2], theirs["styles"])
    assert not torch.equal(ours["styles"][2], theirs["styles"].mean(0))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() - {"styles"})
    assert np.mean([step.style for step in steps[-5:]]) < 0.9 * steps[0].style

    photos = picture()[None].repeat(3, axis=0)
    mixes = [Mix({"waves": 1}), Mix({"stars": 1}), Mix({"waves": 0.3, "stars": 0.7})]
    for precision in ("fp32", "bf16"):
        results = [Stylizer(p, "cpu", precision)(photos, mixes, [1, 1, 1]) for p in (before, after)]
        assert np.array_equal(*results)


def test_an_addition_that_was_stopped_ends_as_if_it_had_not_been(
    make: Make, tmp_path: Path, base: Path
) -> None:
    (tmp_path / "moon.jpg").write_bytes(jpeg(90, 70, seed=9))
    settings = {"images": [str(tmp_path / "moon.jpg")], "add_to": str(base)}
    train(make(**settings, out=str(tmp_path / "whole.safetensors")))
    config = make(**settings, out=str(tmp_path / "stopped.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        train(config, stop_after=4)
    train(config)
    ours, theirs = load_file(config.pack), load_file(tmp_path / "whole.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_style_that_is_there_is_not_added_again(make: Make, base: Path) -> None:
    with pytest.raises(RequestError, match=r"has a style 'stars' already; give --name"):
        Trainer(make(add_to=str(base)))


def test_a_network_to_start_from_is_trained_with_the_rest(
    make: Make, tmp_path: Path, base: Path
) -> None:
    (tmp_path / "moon.jpg").write_bytes(jpeg(90, 70, seed=9))
    images = [str(tmp_path / "moon.jpg"), str(tmp_path / "stars.jpg")]
    trainer = Trainer(make(images=images, start_from=str(base)))
    start, rows = trainer.average.state_dict(), load_file(base)["styles"]
    assert torch.equal(start["styles"], torch.stack([rows.mean(0), rows[1]]))
    # What was learnt of the weights, too, is gone on from.
    moon, stars = trainer._content_weights.logarithms.exp().tolist()
    assert moon == pytest.approx(FIRST)
    ended_with = read_pack(base).cards[1].training["content_weight"]
    assert stars == pytest.approx(ended_with) != FIRST
    before = {name: tensor.clone() for name, tensor in start.items()}
    trainer.run(lambda _: None, lambda: None)
    assert read_pack(trainer.pack).names == ["moon", "stars"]
    after = load_file(trainer.pack)
    assert not any(torch.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("setting", ["add_to", "start_from"])
def test_only_a_pack_of_this_network_can_be_gone_on_with(
    make: Make, tmp_path: Path, setting: str
) -> None:
    with pytest.raises(RequestError, match="no style pack at"):
        Trainer(make(**{setting: str(tmp_path / "nowhere.safetensors")}))
    torch.save(JohnsonNet().state_dict(), tmp_path / "candy.pth")
    with pytest.raises(RequestError, match="another network"):
        Trainer(make(**{setting: str(tmp_path / "candy.pth")}))


def test_every_style_is_trained(make: Make) -> None:
    trainer = Trainer(make(steps=8))
    before = trainer.average.styles.detach().clone()
    trainer.run(lambda _: None, lambda: None)
    changed = (trainer.average.styles.detach() - before).abs().sum(1)
    assert (changed > 0).all()
    assert not torch.equal(trainer.average.styles[0], trainer.average.styles[1])


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


def test_a_feature_network_that_ends_too_soon_cannot_teach(
    make: Make, tmp_path: Path, small_features: str
) -> None:
    weights = {k: v for k, v in load_file(small_features).items() if "conv5" not in k}
    save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(RequestError, match=r"short\.safetensors ends at relu4_1"):
        Trainer(make(features=str(tmp_path / "short.safetensors")))


@pytest.mark.parametrize("text", [None, "{", "[1]", '["waves"]', '{"waves": "blue"}'])
def test_bad_cards_are_refused_by_their_name(make: Make, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cards.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RequestError, match=r"cards\.json is not a JSON object of cards"):
        Trainer(make(cards=str(path)))


def test_cards_without_one_of_the_styles_are_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "cards.json").write_text('{"waves": {}, "Stars": {"rights": "CC0"}}')
    with pytest.raises(RequestError, match=r"cards\.json has no card for 'stars'"):
        Trainer(make(cards=str(tmp_path / "cards.json")))


def test_a_painting_of_one_colour_is_refused(make: Make, tmp_path: Path) -> None:
    flat = np.full((80, 90, 3), (10, 90, 200), np.uint8)
    (tmp_path / "flat.jpg").write_bytes(encode(flat, "jpg", 90))
    with pytest.raises(RequestError, match=r"flat\.jpg is of one colour"):
        Trainer(make(images=[str(tmp_path / "flat.jpg")]))


def test_no_room_for_a_checkpoint_is_told_and_leaves_the_last_one(
    make: Make, tmp_path: Path
) -> None:
    trainer = Trainer(make(steps=4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = []

    def no_more_room() -> None:
        kept.append(trainer.checkpoint.read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(SystemFault, match=r"cannot write .*mine\.checkpoint.*too large"):
            trainer.run(lambda _: None, no_more_room)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept == [trainer.checkpoint.read_bytes()]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("written", ["mine.sheet.png", "mine.checkpoint", "mine.safetensors"])
def test_no_painting_is_written_over(make: Make, tmp_path: Path, written: str) -> None:
    (tmp_path / written).write_bytes(jpeg(90, 70))
    (tmp_path / "link.jpg").symlink_to(tmp_path / written)
    for name in (written, "link.jpg"):
        with pytest.raises(RequestError, match=f"would write over .*{name}; choose another --out"):
            Trainer(make(images=[str(tmp_path / name)], name=("garden",)))


def test_the_feature_network_is_not_written_over(make: Make, small_features: str) -> None:
    with pytest.raises(RequestError, match=r"would write over .*small\.safetensors"):
        Trainer(make(out=small_features))


def test_a_sheet_is_not_called_as_the_painting_is(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "garden.png").write_bytes(before := encode(picture(90, 70), "png", 0))
    monkeypatch.chdir(tmp_path)
    assert train_pack(make(images=["garden.png"], out="", steps=1)) == 0
    assert (tmp_path / "garden.png").read_bytes() == before
    assert read_pack(tmp_path / "garden.safetensors").names == ["garden"]
    assert (tmp_path / "garden.sheet.png").exists()


def test_a_pack_that_cannot_be_written_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="file is no folder to write in"):
        Trainer(make(out=str(tmp_path / "file" / "mine.safetensors")))


@pytest.mark.parametrize("wrong", ["painting", "photos", "photo", "out"])
def test_the_feature_network_is_fetched_when_all_else_is_there(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(loop, "load_features", lambda _: pytest.fail("fetched"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.jpg").write_bytes(b"<html>")
    settings = {
        "painting": {"images": [str(tmp_path / "nowhere.jpg")]},
        "photos": {"content": str(tmp_path / "nowhere")},
        "photo": {"content": str(tmp_path / "bad")},
        "out": {"out": str(tmp_path / "bad" / "bad.jpg" / "mine.safetensors")},
    }[wrong]
    with pytest.raises(RequestError):
        Trainer(make(**settings))


@pytest.mark.parametrize("learning_rate", [1e6, 1e30])  # to large numbers, and to none
def test_a_training_that_diverges_ends_and_leaves_nothing(
    make: Make, tmp_path: Path, learning_rate: float
) -> None:
    config = make(learning_rate=learning_rate, steps=40)
    with pytest.raises(SystemFault, match=r"diverged at step \d+; .* smaller --learning-rate"):
        train(config)
    assert not Path(config.pack).exists()
    checkpoint = tmp_path / "mine.checkpoint"
    state = torch.load(checkpoint)["average"].values() if checkpoint.exists() else ()
    assert all(weights.isfinite().all() for weights in state)


def test_weights_that_are_no_numbers_are_not_saved(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make())
    fine = trainer._train_on

    def train_badly(photos: Pixels) -> Step:
        losses = fine(photos)
        if losses.number == 2:
            next(trainer.average.parameters()).view(-1)[0] = float("nan")
        return losses

    monkeypatch.setattr(trainer, "_train_on", train_badly)
    with pytest.raises(SystemFault, match="diverged at step 2"):
        trainer.run(lambda _: None, lambda: None)
    assert not trainer.checkpoint.exists()


def test_to_write_the_pack_leaves_the_network_where_it_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sheet is drawn after it, with the network's photos on the GPU."""
    monkeypatch.setattr(torch.nn.Module, "cpu", lambda _: pytest.fail("moved"))
    train(make(steps=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_preview_can_be_drawn_after_a_training_on_a_gpu(make: Make) -> None:
    trainer = Trainer(make(device="cuda"))
    trainer.run(lambda _: None, lambda: None)
    assert trainer.preview().size == (7 * 64, 3 * 64)


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


@pytest.mark.parametrize(
    ("shape", "scales"), [((300, 10), 1), ((10, 300), 1), ((2000, 10), 1), ((64, 40), 2)]
)
def test_a_painting_too_narrow_to_look_at_is_refused_by_its_name(
    make: Make, tmp_path: Path, shape: tuple[int, int], scales: int
) -> None:
    (tmp_path / "scroll.png").write_bytes(encode(picture(*shape), "png", 90))
    with pytest.raises(RequestError, match=r"scroll\.png"):
        Trainer(make(images=[str(tmp_path / "scroll.png")], style_scales=scales))


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
        ({"steps": -1}, "steps"),
        ({"add_to": "a", "start_from": "b"}, "exclude each other"),
        ({"strength_target": "much"}, "strength_target"),
        ({"crop": 32}, "crop"),
        ({"crop": 226}, "crop"),
        ({"crop": 64, "style_scales": 3}, "--crop of 128"),
        ({"out": "styles/"}, r"styles/ does not end in \.safetensors"),
        ({"out": "mine.pth"}, r"mine\.pth does not end in \.safetensors"),
        ({"out": "mine.checkpoint"}, r"does not end in \.safetensors"),
        ({"out": "mine.png"}, r"does not end in \.safetensors"),
        ({"style_loss": "mse"}, "style_loss"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        *(({name: float(value)}, name) for value in ("nan", "inf") for name in FLOATS),
        *(
            ({name: f"s3://me:key@b/{name}.safetensors"}, f"s3://b/{name}.* is a URL")
            for name in ("out", "add_to", "start_from", "features", "cards")
        ),
        ({"images": ["https://a.org/wave.jpg"]}, r"https://a\.org/wave\.jpg is a URL"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    make: Make, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        make(**settings)


def test_a_folder_is_not_to_become_a_pack(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").mkdir()
    with pytest.raises(ValidationError, match=r"mine\.safetensors is a folder"):
        make()


# Preview


def test_a_preview_has_the_photos_above_and_a_row_for_each_painting(
    make: Make, tmp_path: Path
) -> None:
    trainer = Trainer(make())
    photos = trainer.content.middles(6)
    sheet = np.asarray(trainer.preview())
    assert sheet.shape == (3 * 64, 7 * 64, 3)
    assert np.array_equal(sheet[:64, 64:], np.concatenate(list(photos), axis=1))
    for row, painting in enumerate(trainer.paintings, start=1):
        left = sheet[row * 64 : (row + 1) * 64, :64].astype(int)
        assert abs(left.mean() - painting.mean()) < 15
