"""Evaluation of a style pack: a score card and a contact sheet for each of its styles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from pipeline.errors import RequestError
from pipeline.job import device_name
from pipeline.networks.features import load_features
from pipeline.storage import Storage
from pipeline.styles.pack import Card, Pack
from pipeline.stylizer import MIN_SIDE, pick_device
from pipeline.training.content import ContentPhotos
from pipeline.training.paintings import as_input, read_painting
from pipeline.training.preview import preview
from pipeline.training.scores import Scores, score

PHOTOS = 20
PHOTOS_ON_SHEET = 6


@dataclass(frozen=True)
class Evaluation:
    """What became of one style: its figures, and its painting and results as a picture."""

    card: Card
    scores: Scores
    photos: int
    sheet: Image.Image


def evaluate(
    pack: Pack, paintings: str, content: str, features: str, size: int, device: str
) -> Iterator[Evaluation]:
    """Score the styles of a pack, one after another.

    Args:
        paintings: folder with the paintings, called as when they were trained with.
        content: photos as of a job, best such as no training has seen; the middle squares of
            the first 20 count. features: the judge, as in load_features. size: of the photos,
            pixels, a multiple of 4 from 32 on.

    Raises:
        RequestError: a painting, the photos or the judge cannot be read, or the size or the
            device is another.
    """
    if size % 4 or size < MIN_SIDE:
        raise RequestError(f"--size {size}: give a multiple of 4 from {MIN_SIDE} on")
    try:
        device_name(device)
    except ValueError as error:
        raise RequestError(f"--device {device}: {error}") from error
    on = pick_device(device)
    files = [_painting_of(card, Path(paintings).expanduser()) for card in pack.cards]
    pictures = [
        read_painting(str(file), card.training["style_size"])
        for card, file in zip(pack.cards, files, strict=True)
    ]
    photos = ContentPhotos(Storage(), content, size, seed=0).middles(PHOTOS)
    # Last of what is read: it may have to be downloaded first.
    try:
        judge = load_features(features).to(on)
    except ValueError as error:
        raise RequestError(str(error)) from error
    network = pack.load().to(on)
    mixes = torch.eye(len(pictures), device=on)[:, None]
    for card, painting, mix in zip(pack.cards, pictures, mixes, strict=True):
        scores = score(network, mix, as_input(photos, on), as_input(painting[None], on), judge)
        sheet = preview(network, mix, [painting], photos[:PHOTOS_ON_SHEET])
        yield Evaluation(card, scores, len(photos), sheet)


def _painting_of(card: Card, folder: Path) -> Path:
    name = card.training.get("painting")
    if not name:
        raise RequestError(f"the card of '{card.name}' does not say which painting it is from")
    if not (folder / name).is_file():
        raise RequestError(f"there is no {name}, the painting of '{card.name}', in {folder}")
    return folder / name
