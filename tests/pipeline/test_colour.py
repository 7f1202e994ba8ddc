"""The photo's colours under the painting's strokes."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from pipeline.colour import luminance, with_colour_of


def images(seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    values = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * values


def test_luminance_is_that_of_jpeg() -> None:
    pixels = (images(0) * 255).round()
    ours = luminance(pixels)
    for photo, plane in zip(pixels, ours, strict=True):
        array = photo.permute(1, 2, 0).byte().numpy()
        theirs = torch.tensor(list(Image.fromarray(array).convert("L").tobytes())).view(9, 7)
        assert (plane[0] - theirs).abs().max() <= 1


def test_the_chroma_is_the_photos_and_the_luminance_the_results() -> None:
    photos, styled = images(0, 0.4, 0.6), images(1, 0.4, 0.6)
    mixed = with_colour_of(photos, styled)
    torch.testing.assert_close(luminance(mixed), luminance(styled))
    torch.testing.assert_close(mixed - luminance(mixed), photos - luminance(photos))


def test_a_grey_photo_stays_grey() -> None:
    photos = images(0)[:, :1].expand(-1, 3, -1, -1)
    mixed = with_colour_of(photos, images(1))
    torch.testing.assert_close(mixed, mixed[:, :1].expand(-1, 3, -1, -1))


def test_it_stays_in_range() -> None:
    mixed = with_colour_of(images(0), images(1))
    assert mixed.min() >= 0
    assert mixed.max() <= 1
