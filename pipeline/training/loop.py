"""The training loop: perceptual losses, many styles in one network, checkpoints."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.codec import Pixels, decode
from pipeline.errors import RequestError, RowError
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.features import load_features
from pipeline.storage import Storage
from pipeline.styles.pack import Card, save_pack
from pipeline.stylizer import MIN_SIDE, pick_device, pick_dtype
from pipeline.training.config import TrainConfig
from pipeline.training.content import MAX_PIXELS, ContentPhotos
from pipeline.training.losses import (
    STYLE_LOSSES,
    Statistics,
    content_loss,
    range_loss,
    statistics,
    total_variation,
    variation_hinge,
)

WARM_UP = 30  # steps
MAX_GRADIENT = 10.0
RANGE_WEIGHT = 10.0

# Of a card, in its order, that a file of cards may give.
CARD_KEYS = ("title", "artist", "year", "rights", "source")


@dataclass(frozen=True)
class Step:
    """What one step measured: mean losses of its batch, without their weights."""

    number: int
    style: float
    content: float
    variation: float


class Trainer:
    """Trains a FastTransformNet on paintings and photos.

    The transform network of Johnson et al. 2016 is trained as there, with every image of a
    batch drawing its own style (Dumoulin et al. 2017). Everything that is drawn by lot follows
    from the seed and the step, so a run that was stopped goes on as if it had not been.

    Raises:
        RequestError: paintings, photos or the feature network cannot be read, or a checkpoint
            of another run stands where this one's would.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.pack = Path(config.pack)
        self.checkpoint = self.pack.with_suffix(".checkpoint")
        self._cards = _read_cards(config)
        self.content = ContentPhotos(Storage(), config.content, config.crop, config.seed)
        self.device = pick_device(config.device)
        self._dtype = pick_dtype("auto", self.device)
        try:
            features = load_features(config.features)
        except ValueError as error:
            raise RequestError(str(error)) from error
        self._features = features.to(self.device).to(memory_format=torch.channels_last)
        self.paintings = [read_painting(image, config.style_size) for image in config.images]
        self._learn_paintings()
        torch.manual_seed(config.seed)
        self.network = FastTransformNet(len(config.names))
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.step = 0
        self.seconds = 0.0
        self._resume()

    @torch.no_grad()
    def _learn_paintings(self) -> None:
        variations: list[Tensor] = []
        by_painting: list[list[Statistics]] = []
        for painting in self.paintings:
            image = self._as_input(painting[None])
            by_painting.append([statistics(layer) for layer in self._features(image)])
            variations.append(total_variation(image))
        self._variation = torch.cat(variations)
        # For each layer the statistics of all paintings, to be picked from by style.
        self._targets = [Statistics.stack(layer) for layer in zip(*by_painting, strict=True)]

    def run(self, on_step: Callable[[Step], None], on_checkpoint: Callable[[], None]) -> None:
        """Train to the end, and write the pack.

        Args:
            on_step: is told each step's losses. on_checkpoint: that a checkpoint was written.
        """
        config = self.config
        started = time.monotonic() - self.seconds
        for photos in self.content.batches(config.batch, self.step, config.steps):
            losses = self._train_on(photos)
            self.step += 1
            self.seconds = time.monotonic() - started
            on_step(losses)
            if self.step % config.checkpoint_every == 0:
                self._save_checkpoint()
                on_checkpoint()
        self.network.eval()
        save_pack(self.pack, self.network.cpu(), [self._card(name) for name in config.names])
        self.checkpoint.unlink(missing_ok=True)

    def _train_on(self, photos: Pixels) -> Step:
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * self._schedule()
        rng = np.random.default_rng((config.seed, self.step, 1))
        styles = torch.from_numpy(rng.integers(len(config.names), size=len(photos)))
        styles = styles.to(self.device)
        given = self._as_input(photos)
        mix = torch.nn.functional.one_hot(styles, len(config.names)).float()
        with torch.autocast(self.device.type, self._dtype, self._dtype != torch.float32):
            results = self.network(given, mix)
            with torch.no_grad():
                photo_features = self._features(given)
            features = self._features(results)
        ours = [statistics(layer) for layer in features]
        theirs = [layer.pick(styles) for layer in self._targets]
        style = STYLE_LOSSES[config.style_loss](ours, theirs).mean()
        content = content_loss(features, photo_features).mean()
        variation = variation_hinge(results, self._variation[styles]).mean()
        loss = (
            style
            + config.content_weight * content
            + config.variation_weight * variation
            + RANGE_WEIGHT * range_loss(results).mean()
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT)
        self._optimizer.step()
        return Step(self.step + 1, style.item(), content.item(), variation.item())

    def _schedule(self) -> float:
        """Share of the learning rate: a short rise, then a straight fall to nothing."""
        return min((self.step + 1) / WARM_UP, 1.0 - self.step / self.config.steps)

    def _as_input(self, images: Pixels) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in 0..1, channels last."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return tensor.permute(0, 3, 1, 2).float() / 255.0

    def _save_checkpoint(self) -> None:
        state = {
            "digest": self.config.digest,
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

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
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _card(self, name: str) -> Card:
        config = self.config
        kept = {"steps", "batch", "crop", "style_size", "learning_rate", "style_loss",
                "content_weight", "variation_weight", "seed"}  # fmt: skip
        training: dict[str, Any] = config.model_dump(include=kept)
        training |= {
            "features": Path(config.features).name,
            "photos": len(self.content),
            "minutes": round(self.seconds / 60, 1),
            "device": self.device.type,
            "torch": torch.__version__.partition("+")[0],
        }
        said: dict[str, Any] = {key: self._cards.get(name, {}).get(key, "") for key in CARD_KEYS}
        return Card(name, **said, training=training)


def read_painting(path: str, size: int) -> Pixels:
    """A painting with its longer side scaled to ``size``, (H, W, 3) uint8.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        pixels = decode(Path(path).expanduser().read_bytes(), None, MAX_PIXELS).pixels
    except (OSError, RowError) as error:
        raise RequestError(f"{path} cannot be read as an image: {error}") from error
    image = Image.fromarray(pixels)
    scale = size / max(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    if min(shape) < MIN_SIDE:
        raise RequestError(
            f"{path} is {image.width}x{image.height}: scaled to {size} pixels its shorter side is "
            f"below {MIN_SIDE}; cut it"
        )
    return np.array(image.resize(shape, Image.Resampling.LANCZOS))


def _read_cards(config: TrainConfig) -> dict[str, dict[str, str]]:
    if not config.cards:
        return {}
    try:
        cards = json.loads(Path(config.cards).expanduser().read_text())
        return {name: {key: str(value) for key, value in cards[name].items()} for name in cards}
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise RequestError(f"{config.cards} is not a JSON object of cards: {error}") from error
