"""The training loop: perceptual losses, many styles in one network, checkpoints."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.codec import Pixels
from pipeline.errors import RequestError, SystemFault
from pipeline.folder import make_folder
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.features import load_features
from pipeline.storage import Storage
from pipeline.styles.pack import RIGHTS, Card, read_pack, save_pack
from pipeline.stylizer import pick_device, pick_dtype
from pipeline.training.balance import CONTENT_TARGETS, FIRST, ContentWeights
from pipeline.training.config import TrainConfig
from pipeline.training.content import ContentPhotos
from pipeline.training.losses import (
    LAYER_WEIGHTS,
    STYLE_TERMS,
    Statistics,
    content_distance,
    feature_distance,
    lattice_loss,
    range_loss,
    smoothness_loss,
    statistics,
    total_variation,
    variation_hinge,
)
from pipeline.training.paintings import as_input, read_painting
from pipeline.training.preview import preview
from pipeline.training.similarity import gradient_ssim, ssim

WARM_UP = 30  # steps

# Rows alone can be learnt so many times as fast as the whole network.
ROWS_FASTER = 10.0
MAX_GRADIENT = 10.0
RANGE_WEIGHT = 2.0
SMOOTHNESS_WEIGHT = 3.0
LATTICE_WEIGHT = 10.0

# A style distance of no use: with too high a learning rate it has come back from 200,000, and
# well above this it ends far from the painting.
DIVERGED = 1e6

# The average of the weights forgets in about so many steps.
AVERAGED = 1000

# Photos that say how far a photo is from each painting.
YARDSTICK = 32

# Photos on a preview.
PREVIEWED = 6

# Of the settings, what a card tells.
TOLD = {
    "batch", "crop", "style_size", "style_scales", "learning_rate", "strength_target", "blends",
    "style_loss", "content_loss", "variation_loss", "variation_weight", "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What one step measured: means of its batch.

    style: distance from the painting, 1 for the photo. content: content_distance.
    variation: total variation relative to the painting's.
    """

    number: int
    style: float
    content: float
    variation: float


class Trainer:
    """Trains a FastTransformNet on paintings and photos.

    The transform network of Johnson et al. 2016 is trained as there, with every image of a
    batch drawing its own style (Dumoulin et al. 2017) or a blend of two. Everything that is
    drawn by lot follows from the seed and the step, so a run that was stopped goes on as if it
    had not been. What is saved is a running average of the weights (Polyak and Juditsky 1992).

    Raises:
        RequestError: paintings, photos, the feature network or a pack cannot be read, the pack
            cannot be written or would replace one of them, or a checkpoint of another run
            stands where this one's would.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.pack = Path(config.pack).expanduser()
        self.sheet = self.pack.with_suffix(".sheet.png")
        self.checkpoint = self.pack.with_suffix(".checkpoint")
        _spare_what_is_given(config, [self.pack, self.sheet, self.checkpoint])
        self._said = _read_cards(config)
        self.device = pick_device(config.device)
        dtype = pick_dtype("auto", self.device)
        # Gradients in float16 would have to be scaled, or they vanish.
        self._dtype = torch.float32 if dtype == torch.float16 else dtype
        self.cards, network = _beginning(config)
        # The styles that are trained are the last ones.
        self._first = len(self.cards) - len(config.names)
        self.paintings = [
            read_painting(image, config.style_size, config.style_scales) for image in config.images
        ]
        self.content = ContentPhotos(Storage(), config.content, config.crop, config.seed)
        yardstick = self.content.batch(YARDSTICK, config.all_steps)  # no step's own
        make_folder(str(self.pack.parent))
        # Last of what is read: it may have to be downloaded first.
        try:
            features = load_features(config.features)
        except ValueError as error:
            raise RequestError(str(error)) from error
        if len(features.stages) < len(LAYER_WEIGHTS):
            raise RequestError(f"{config.features} ends at relu4_1: it can judge, but not teach")
        self._features = features.to(self.device).to(memory_format=torch.channels_last)
        self._learn_paintings(yardstick)
        self._network = network.to(self.device).to(memory_format=torch.channels_last)
        if config.add_to:
            self._network.requires_grad_(False)
            self._network.styles.requires_grad_(True)
        self.average = deepcopy(self._network).requires_grad_(False)
        learnt = [weight for weight in self._network.parameters() if weight.requires_grad]
        self._learning_rate = config.learning_rate * (ROWS_FASTER if config.add_to else 1.0)
        self._optimizer = torch.optim.Adam(learnt, lr=self._learning_rate)
        self._content_weights = ContentWeights(
            [card.training.get("content_weight", FIRST) for card in self.cards[self._first :]],
            CONTENT_TARGETS[config.strength_target], config.content_weight, self.device,
        )  # fmt: skip
        self.step = 0
        self.seconds = 0.0
        self._resume()

    @torch.no_grad()
    def _learn_paintings(self, yardstick: Pixels) -> None:
        paintings = [as_input(painting[None], self.device) for painting in self.paintings]
        self._variation = torch.cat([total_variation(painting) for painting in paintings])
        looked_at = [self._look_at(painting) for painting in paintings]
        # For each layer the statistics of all paintings, to be blended by style.
        self._targets = [Statistics.stack(layer) for layer in zip(*looked_at, strict=True)]
        # How far photos are from each painting: the unit of style.
        photos = self._look_at(as_input(yardstick, self.device))
        terms = STYLE_TERMS[self.config.style_loss]
        everyone = torch.eye(len(paintings), device=self.device)
        units = []
        for one in everyone:
            theirs = [layer.blend(one.expand(YARDSTICK, -1)) for layer in self._targets]
            units.append(terms(photos, theirs).mean(0))
        self._units = torch.stack(units)

    def _look_at(self, images: Tensor) -> list[Statistics]:
        """Statistics of (B, 3, H, W) images, all layers at all scales."""
        looked_at = [statistics(layer) for layer in self._see(images)]
        return looked_at + self._look_closer(images)

    def _look_closer(self, images: Tensor) -> list[Statistics]:
        """Statistics of all layers at the scales below the first."""
        seen: list[Statistics] = []
        for _ in range(1, self.config.style_scales):
            images = F.avg_pool2d(images, 2)
            seen += [statistics(layer) for layer in self._see(images)]
        return seen

    def _see(self, images: Tensor) -> list[Tensor]:
        with torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            layers: list[Tensor] = self._features(images)
            return layers

    def run(self, on_step: Callable[[Step], None], on_checkpoint: Callable[[], None]) -> None:
        """Train to the end, and write the pack.

        Args:
            on_step: is told each step's losses. on_checkpoint: that a checkpoint was written.

        Raises:
            SystemFault: the training has diverged, or what it makes cannot be written.
        """
        config = self.config
        started = time.monotonic() - self.seconds
        for photos in self.content.batches(config.batch, self.step, config.all_steps):
            losses = self._train_on(photos)
            self._check_sane(losses)
            self.step += 1
            self.seconds = time.monotonic() - started
            on_step(losses)
            if self.step % config.checkpoint_every == 0:
                self._save_checkpoint()
                on_checkpoint()
        cards = self.cards[: self._first] + [self._card(name) for name in config.names]
        save_pack(self.pack, self.average, cards)
        self.checkpoint.unlink(missing_ok=True)

    def preview(self) -> Image.Image:
        """What the styles make of some of the photos by now."""
        mixes = torch.eye(len(self.cards), device=self.device)[self._first :]
        return preview(self.average, mixes, self.paintings, self.content.middles(PREVIEWED))

    def _train_on(self, photos: Pixels) -> Step:
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * self._schedule()
        mix = self._draw(len(photos))
        given = as_input(photos, self.device)
        with torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            results = self._network(given, F.pad(mix, (self._first, 0)))
        with torch.no_grad():
            photo_features = self._see(given)
        features = self._see(results)
        ours = [statistics(layer) for layer in features] + self._look_closer(results)
        theirs = [layer.blend(mix) for layer in self._targets]
        terms = STYLE_TERMS[config.style_loss](ours, theirs)
        style = terms.sum(1) / (mix @ self._units).sum(1)
        distance = content_distance(features, photo_features)
        content = {
            "normalized": lambda: distance,
            "features": lambda: feature_distance(features, photo_features),
            "ssim": lambda: 1.0 - ssim(results, given),
            "gradient": lambda: 1.0 - gradient_ssim(results, given),
        }[config.content_loss]()
        own = mix @ self._variation
        if config.variation_loss == "hinge":
            variation = variation_hinge(results, own)
        else:
            variation = total_variation(results) / own
        loss = (
            style
            + self._content_weights.of(mix) * content
            + config.variation_weight * variation
            + SMOOTHNESS_WEIGHT * smoothness_loss(results, given)
            + LATTICE_WEIGHT * lattice_loss(results)
            + RANGE_WEIGHT * range_loss(results)
        ).mean()
        self._learn(loss)
        with torch.no_grad():
            self._content_weights.update(mix, distance)
            noise = total_variation(results) / own
        means = (values.mean().item() for values in (style, distance, noise))
        return Step(self.step + 1, *means)

    def _check_sane(self, losses: Step) -> None:
        weights = torch.stack([weight.isfinite().all() for weight in self.average.parameters()])
        measured = (losses.style, losses.content, losses.variation)
        finite = all(map(math.isfinite, measured)) and weights.all()
        if not finite or losses.style > DIVERGED:
            raise SystemFault(
                f"the training has diverged at step {losses.number:,}; start it again with a "
                f"smaller --learning-rate than {self.config.learning_rate:g}"
            )

    def _draw(self, count: int) -> Tensor:
        """Whose style each image of this step gets, (count, styles)."""
        rng = np.random.default_rng((self.config.seed, self.step, 1))
        everyone = np.eye(len(self.config.names), dtype=np.float32)
        one, other = everyone[rng.integers(len(everyone), size=(2, count))]
        share = rng.random((count, 1), np.float32) * (rng.random((count, 1)) < self.config.blends)
        return torch.from_numpy(one + (other - one) * share.astype(np.float32)).to(self.device)

    def _learn(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._network.styles.grad is not None:
            self._network.styles.grad[: self._first] = 0.0  # so that Adam leaves them alone
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT)
        self._optimizer.step()
        # At first the average is over few steps, or it would remember the beginning.
        share = max(1.0 / AVERAGED, 1.0 / (self.step / 5 + 1))
        with torch.no_grad():
            for mean, weight in zip(
                self.average.parameters(), self._network.parameters(), strict=True
            ):
                mean.lerp_(weight, share)

    def _schedule(self) -> float:
        """Share of the learning rate: a short rise, then a straight fall to nothing."""
        return min((self.step + 1) / WARM_UP, 1.0 - self.step / self.config.all_steps)

    def _save_checkpoint(self) -> None:
        state = {
            "digest": self.config.digest,
            "step": self.step,
            "seconds": self.seconds,
            "network": self._network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "content_weights": self._content_weights.logarithms,
        }
        data = io.BytesIO()
        torch.save(state, data)
        Storage().write_last(os.path.realpath(self.checkpoint), data.getvalue())

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # whatever a damaged file can provoke
            raise RequestError(
                f"{self.checkpoint} is no checkpoint, or damaged; delete it to start afresh"
            ) from error
        if state["digest"] != self.config.digest:
            raise RequestError(
                f"{self.checkpoint} is from a run with other settings; delete it to start afresh, "
                "or choose another --out"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self._network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._content_weights.logarithms = state["content_weights"]

    def _card(self, name: str) -> Card:
        config = self.config
        index = config.names.index(name)
        weight = self._content_weights.logarithms[index].exp().item()
        training: dict[str, Any] = {
            "painting": Path(config.images[index]).name,
            "steps": config.all_steps,
            **config.model_dump(include=TOLD),
            "content_weight": round(weight, 2),
            "features": Path(config.features).name,
            "photos": len(self.content),
            "minutes": round(self.seconds / 60, 1),
            "device": self.device.type,
            "torch": torch.__version__.partition("+")[0],
        }
        if before := config.add_to or config.start_from:
            training["from"] = Path(before).name
        said: dict[str, Any] = {key: self._said.get(name, {}).get(key, "") for key in RIGHTS}
        return Card(name, **said, training=training)


def _spare_what_is_given(config: TrainConfig, written: Sequence[Path]) -> None:
    """Raise a RequestError if a file to write is one to read."""
    for given in (*config.images, config.features):
        if Path(given).expanduser().resolve() in [path.resolve() for path in written]:
            raise RequestError(f"the training would write over {given}; choose another --out")


def _beginning(config: TrainConfig) -> tuple[list[Card], FastTransformNet]:
    """Cards of the styles there will be, those to train last, and a network for them."""
    torch.manual_seed(config.seed)
    before = config.add_to or config.start_from
    if not before:
        return [Card(name) for name in config.names], FastTransformNet(len(config.names))
    pack = read_pack(Path(before).expanduser())
    network = pack.load()
    if not isinstance(network, FastTransformNet):
        raise RequestError(f"{before} has another network than those that are trained here")
    kept = list(pack.cards) if config.add_to else []
    if both := set(pack.names) & set(config.names) if kept else set():
        raise RequestError(f"{before} has a style '{sorted(both)[0]}' already; give --name")
    known = {card.name: card for card in pack.cards}
    new = [known.get(name, Card(name)) for name in config.names]
    rows = [_row(network, pack.names, card.name) for card in [*kept, *new]]
    return [*kept, *new], network.with_styles(torch.stack(rows))


def _row(network: FastTransformNet, names: Sequence[str], name: str) -> Tensor:
    """A style's row; a new one begins in the middle of those there are."""
    rows = network.styles.data
    return rows[names.index(name)] if name in names else rows.mean(0)


def _read_cards(config: TrainConfig) -> dict[str, dict[str, str]]:
    if not config.cards:
        return {}
    try:
        read = json.loads(Path(config.cards).expanduser().read_text())
        cards = {name: {key: str(value) for key, value in read[name].items()} for name in read}
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise RequestError(f"{config.cards} is not a JSON object of cards: {error}") from error
    for name in config.names:
        if name not in cards:
            raise RequestError(f"{config.cards} has no card for '{name}'; add one, or give --name")
    return cards
