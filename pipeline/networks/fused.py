"""The steps between the convolutions of FastInference on a CPU, each in as few passes as it takes.

torch does one thing after the other, and each reads and writes memory for itself: statistics,
normalization, rectification, the copy to where the next convolution's border is. Here one pass
over an image finds the statistics and another writes the result, compiled by Numba. Statistics
and sums are float32, whatever the activations are, and add up in the same order whatever else is
in the batch.

Of bfloat16 Numba knows nothing: its arrays hold the bits, as uint16. Activations are (B, H, W C)
for it, a row's numbers one after the other, so that loops are long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from pipeline.networks.compiled import compiled
from pipeline.networks.eager import LEVEL_STEP, Moments, bordered, empty, pairs
from pipeline.networks.norm import EPS

Array = NDArray[Any]  # float32, or bfloat16 as uint16
Floats = NDArray[np.float32]

# Rows whose mean is taken for the level of all: sums of squares around it are precise.
SAMPLED_ROWS = 4


def entered(photos: Tensor, border: int, dtype: torch.dtype) -> Tensor:
    """As eager.entered."""
    result = bordered(photos, border, dtype)
    given = _rows(photos)
    _enter(given, _levels(given, LEVEL_STEP), border, _rows(result))
    return pairs(result)


def ready(styles: Tensor) -> Floats:
    """As eager.ready."""
    return styles.numpy()


def rectified(x: Tensor, scale: Floats, shift: Floats) -> Tensor:
    """As eager.rectified."""
    result = bordered(x, 1, x.dtype)
    _rectify(_rows(x), _whole(scale), _whole(shift), _rows(result))
    return result


def add_(x: Tensor, y: Tensor, scale: Floats, shift: Floats) -> Tensor:
    """As eager.add_."""
    _add(_rows(x), _rows(y), _whole(scale), _whole(shift))
    return x


def entered_rows(photos: Tensor, level: Tensor, border: int, dtype: torch.dtype) -> Tensor:
    """As eager.entered_rows."""
    batch, channels, height, width = photos.shape
    result = empty((batch, channels, height, width + 2 * border), photos, dtype)
    _enter(_rows(photos), level.flatten(1).numpy(), border, _rows(result))
    return pairs(result)


def moments(x: Tensor) -> Moments:
    """As eager.moments."""
    mean, squares = _moments(_rows(x)[0], x.shape[1])
    return mean.tolist(), squares.tolist(), x[0, 0].numel()


def rectified_rows(x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """As eager.rectified_rows."""
    batch, channels, height, width = x.shape
    result = empty((batch, channels, height, width + 2), x)
    _rectify_rows(_rows(x)[0], slope.numpy(), offset.numpy(), _rows(result)[0])
    return result


def add_rows_(x: Tensor, y: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """As eager.add_rows_."""
    _add_rows(_rows(x)[0], _rows(y)[0], slope.numpy(), offset.numpy())
    return x


def raised(windows: Tensor, scale: Floats, shift: Floats) -> Tensor:
    """As eager.raised."""
    batch, channels, height, width = windows.shape
    channels, height, width = channels // 4, 2 * (height - 1), 2 * (width - 1)
    result = empty((batch, channels, height + 2, width + 2), windows)
    given = _rows(windows)
    phased = np.empty((height, width * channels), given.dtype)
    # A copy is the quicker the fewer things it is of.
    word = np.uint64 if channels * given.itemsize % 8 == 0 else given.dtype
    words = given.view(word), phased.view(word)
    _raise(*words, phased, _whole(scale), _whole(shift), _rows(result))
    return result


def finished(x: Tensor, photos: Tensor, strengths: Tensor) -> Tensor:
    """Results from what the last convolution makes of photos.

    Args:
        x: (B, 12, H / 2, W / 2), phase by phase, in 0..1 but not clamped.
        photos: (B, 3, H, W) uint8.
        strengths: (B,) float32, 0 (the photo) to 1.

    Returns:
        (B, 3, H, W) uint8, channels last.
    """
    result = empty(tuple(photos.shape), photos)
    _finish(_rows(x), _rows(photos), strengths.numpy(), _rows(result))
    return result


def _rows(x: Tensor) -> Array:
    """(B, C, H, W) -> (B, H, W C), the same memory where it is channels last."""
    x = x.contiguous(memory_format=torch.channels_last)
    if x.dtype == torch.bfloat16:
        x = x.view(torch.uint16)
    batch, _, height, _ = x.shape
    return x.numpy().transpose(0, 2, 3, 1).reshape(batch, height, -1)


def _whole(style: Floats) -> Floats:
    """Columns of styles as an array of their own, so that each step is compiled but once."""
    return np.ascontiguousarray(style)


def _wide(value: Any) -> Any:
    """A value of activations as float32."""


def _narrow(value: Any, place: Array) -> Any:
    """A float32 as ``place`` has them."""


@overload(_wide, inline="always", strict=False)
def _wide_of(value: types.Type) -> Callable[[Any], Any]:
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@overload(_narrow, inline="always", strict=False)
def _narrow_of(value: types.Type, place: types.Array) -> Callable[[Any, Any], Any]:
    if place.dtype == types.uint16:
        # To the nearest; what lies in the middle, which is rare, away from 0.
        return lambda value, place: np.uint16(
            (np.float32(value).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)
        )
    return lambda value, place: value


@compiled
def _folded(row: Floats, channels: int) -> NDArray[np.float64]:
    """The sum for each channel of a row of numbers."""
    result = np.zeros(channels)
    for start in range(0, len(row), channels):
        for c in range(channels):
            result[c] += row[start + c]
    return result


@compiled
def _tiled(values: NDArray[Any], length: int) -> Floats:
    """A row of so many numbers, ``values`` again and again."""
    channels = len(values)
    row = np.empty(length, np.float32)
    for c in range(channels):
        row[c] = values[c]
    for start in range(channels, length, channels):
        for c in range(channels):
            row[start + c] = row[c]
    return row


@compiled
def _moments(x: Array, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of (H, W C) the mean of each channel, and the sum of squares around it."""
    height, length = x.shape
    total = np.zeros(length, np.float32)
    squares = np.zeros(length, np.float32)
    for i in range(SAMPLED_ROWS):
        row = x[height * (2 * i + 1) // (2 * SAMPLED_ROWS)]
        for k in range(length):
            total[k] += _wide(row[k])
    level = _tiled(_folded(total, channels) * (channels / (SAMPLED_ROWS * length)), length)
    total[:] = 0
    fours = height - height % 4
    for y in range(0, fours, 4):
        row0, row1, row2, row3 = x[y], x[y + 1], x[y + 2], x[y + 3]
        for k in range(length):
            a, b = _wide(row0[k]) - level[k], _wide(row1[k]) - level[k]
            c, d = _wide(row2[k]) - level[k], _wide(row3[k]) - level[k]
            total[k] += (a + b) + (c + d)
            squares[k] += (a * a + b * b) + (c * c + d * d)
    for y in range(fours, height):
        row = x[y]
        for k in range(length):
            a = _wide(row[k]) - level[k]
            total[k] += a
            squares[k] += a * a
    count = height * length / channels
    mean = _folded(total, channels) / count
    around = np.maximum(_folded(squares, channels) - mean * mean * count, 0.0)
    return mean + level[:channels], around


@compiled
def _learned(x: Array, scale: Floats, shift: Floats, image: int) -> tuple[Floats, Floats]:
    """What normalizing (H, W C) multiplies each number of a row with, and what it adds then.

    It has the style of the image of that number, or of all.
    """
    style, channels = min(image, len(scale) - 1), scale.shape[1]
    mean, squares = _moments(x, channels)
    factor = scale[style] / np.sqrt(squares * (channels / x.size) + EPS)
    length = x.shape[1]
    return _tiled(factor, length), _tiled(shift[style] - mean * factor, length)


@compiled
def _reflect(x: Array, channels: int, border: int, top: int) -> None:
    """Make so many columns, and rows above and below, a reflection of what is within."""
    width = x.shape[1] // channels
    for y in range(top, len(x) - top):
        for i in range(border):
            to, of = (border - 1 - i) * channels, (border + 1 + i) * channels
            at, back = (width - border + i) * channels, (width - border - 2 - i) * channels
            for c in range(channels):
                x[y, to + c] = x[y, of + c]
                x[y, at + c] = x[y, back + c]
    for i in range(top):
        x[top - 1 - i] = x[top + 1 + i]
        x[len(x) - top + i] = x[len(x) - top - 2 - i]


@compiled
def _write_rectified(x: Array, slope: Floats, offset: Floats, result: Array) -> None:
    """(H, W C), normalized and rectified, to (H + 2, (W + 2) C), or (H, (W + 2) C)."""
    height, length = x.shape
    channels, top = (result.shape[1] - length) // 2, (len(result) - height) // 2
    for y in range(height):
        given, place = x[y], result[y + top, channels : channels + length]
        for k in range(length):
            value = _wide(given[k]) * slope[k] + offset[k]
            place[k] = _narrow(max(value, np.float32(0)), place)
    _reflect(result, channels, 1, top)


@compiled
def _write_added(y: Array, slope: Floats, offset: Floats, x: Array, channels: int) -> None:
    """(H, W C), normalized, added to what is within (H + 2, (W + 2) C), or to (H, W C)."""
    height, length = y.shape
    left, top = (x.shape[1] - length) // 2, (len(x) - height) // 2
    for row in range(height):
        given, place = y[row], x[row + top, left : left + length]
        for k in range(length):
            value = _wide(given[k]) * slope[k] + offset[k]
            place[k] = _narrow(_wide(place[k]) + value, place)
    _reflect(x, channels, top, top)


@compiled
def _rectify(x: Array, scale: Floats, shift: Floats, result: Array) -> None:
    for image in range(len(x)):
        slope, offset = _learned(x[image], scale, shift, image)
        _write_rectified(x[image], slope, offset, result[image])


@compiled
def _add(x: Array, y: Array, scale: Floats, shift: Floats) -> None:
    for image in range(len(y)):
        slope, offset = _learned(y[image], scale, shift, image)
        _write_added(y[image], slope, offset, x[image], scale.shape[1])


@compiled
def _rectify_rows(x: Array, slope: Floats, offset: Floats, result: Array) -> None:
    length = x.shape[1]
    _write_rectified(x, _tiled(slope, length), _tiled(offset, length), result)


@compiled
def _add_rows(x: Array, y: Array, slope: Floats, offset: Floats) -> None:
    length = y.shape[1]
    _write_added(y, _tiled(slope, length), _tiled(offset, length), x, len(slope))


@compiled
def _raise(
    windows: NDArray[Any],
    copy: NDArray[Any],
    phased: Array,
    scale: Floats,
    shift: Floats,
    result: Array,
) -> None:
    """Of windows as words to copy, and room for the phases of one image, as words and as it is."""
    height, length = phased.shape
    width = length // (2 * scale.shape[1])
    size = copy.shape[1] // (2 * width)
    for image in range(len(windows)):
        for y in range(height):
            line, place = windows[image, y // 2 + y % 2], copy[y]
            phase = 2 * (y % 2) * size
            for i in range(width):
                for k in range(size):
                    place[2 * i * size + k] = line[4 * i * size + phase + k]
                    place[(2 * i + 1) * size + k] = line[(4 * i + 5) * size + phase + k]
        slope, offset = _learned(phased, scale, shift, image)
        _write_rectified(phased, slope, offset, result[image])


@compiled
def _levels(photos: NDArray[np.uint8], step: int) -> Floats:
    """eager.level_of each of (B, H, W 3)."""
    batch, height, length = photos.shape
    result = np.zeros((batch, 3), np.float32)
    for image in range(batch):
        total = np.zeros(3, np.int64)
        count = 0
        for y in range(0, height, step):
            for start in range(0, length, 3 * step):
                count += 1
                for c in range(3):
                    total[c] += photos[image, y, start + c]
        for c in range(3):
            result[image, c] = np.rint(total[c] / count)
    return result


@compiled
def _enter(photos: NDArray[np.uint8], level: Floats, border: int, result: Array) -> None:
    batch, height, length = photos.shape
    left, top = 3 * border, (result.shape[1] - height) // 2
    for image in range(batch):
        row = _tiled(level[image], length)
        for y in range(height):
            given, place = photos[image, y], result[image, y + top, left : left + length]
            for k in range(length):
                place[k] = _narrow(np.float32(given[k]) - row[k], place)
        _reflect(result[image], 3, border, top)


@compiled
def _finish(
    x: Array, photos: NDArray[np.uint8], strengths: Floats, result: NDArray[np.uint8]
) -> None:
    batch, height, length = x.shape
    row = np.empty(length // 2, x.dtype)
    # As words of 4 bytes, of which a copy needs fewer.
    given, copy = x.view(np.uint32), row.view(np.uint32)
    width = length // 12
    size = len(copy) // width
    for image in range(batch):
        photo_part = np.float32(1) - strengths[image]
        for y in range(2 * height):
            line = given[image, y // 2, (y % 2) * size :]
            for i in range(width):
                for k in range(size):
                    copy[i * size + k] = line[2 * i * size + k]
            photo, place = photos[image, y], result[image, y]
            for k in range(len(row)):
                value = min(max(_wide(row[k]) * np.float32(255), np.float32(0)), np.float32(255))
                value -= (value - np.float32(photo[k])) * photo_part
                place[k] = np.uint8(np.int32(value + np.float32(0.5)))
