"""Images too large for one piece: the network layer by layer, each in strips of rows.

Instance normalization needs statistics of the whole image, so tiles that are normalized on their
own leave seams. Here every layer is done for the whole image before the next begins: its strips
add up to the exact statistics, and a strip needs of its neighbours only the rows under the edge of
one kernel. Activations are kept at a quarter of the resolution alone; those at half of it are made
twice, which costs little and saves most of the memory. The result is that of the image in one
piece; where activations lie in files it is so but for their rounding to 16 bits, which halves what
is written and read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import room
from pipeline.codec import Pixels
from pipeline.networks.eager import Moments, edged, level_of, phases
from pipeline.networks.inference import FastInference, Layer
from pipeline.networks.norm import EPS

# Pixels of the image in a strip: enough to be busy with, few enough for the caches.
STRIP_PIXELS = 512 * 1024

Span = tuple[int, int]
Index = NDArray[np.int64]
T = TypeVar("T")


class StripNetwork:
    """A network in one style, for one image of any size.

    Rows of activations are (1, C, rows, W), channels last; a span is the first of them and the
    one after the last.

    Args:
        network: on its device, in its precision. style: (row length,), float32.
        photo: (H, W, 3) uint8, H and W at least 32.
        threads: strips to do at once.
        on_strip: is called whenever a strip is done, from several threads.
    """

    def __init__(
        self,
        network: FastInference,
        style: Tensor,
        photo: Pixels,
        threads: int,
        on_strip: Callable[[], None],
    ) -> None:
        self._network, self._steps = network, network.steps
        self._style, self._photo = style.to(network.style_dtype), photo
        self._threads, self._on_strip = threads, on_strip
        self._dtype = network.dtype
        given = torch.from_numpy(photo).permute(2, 0, 1)[None]
        self._level = level_of(given).to(style.device)
        rows, columns = photo.shape[:2]
        self._height, self._width = (
            -(-n // network.stride) * network.stride for n in (rows, columns)
        )
        # Which of the photo's rows and columns stand where it is continued by reflection.
        self._rows = _reflected(_reflected(np.arange(rows), 0, self._height - rows), 2, 2)
        self._columns = _reflected(np.arange(columns), 0, self._width - columns)
        self._half_rows = _reflected(np.arange(self._height // 2), 1, 1)
        self._quarter_rows = _reflected(np.arange(self._height // 4), 1, 1)
        self._down1, self._down2, self._up = (
            self._layer(layer) for layer in (network.down1, network.down2, network.up)
        )

    def run(self, finish: Callable[[Tensor, Span], None]) -> None:
        """Stylize the image.

        Args:
            finish: is given the result in strips, (1, 3, rows, W), in 0..1 but not clamped, and
                their span; from several threads.
        """
        half, quarter = self._height // 2, self._height // 4
        self._down1.learn(self._each(half, lambda span: self._steps.moments(self._enter(span))))
        x, a, b = (self._plane() for _ in range(3))

        def fill(plane: Tensor, layer: _StripLayer, rows: Callable[[Span], Tensor]) -> None:
            """A layer's result for all rows, and its statistics."""

            def do(span: Span) -> Moments:
                result = layer(rows(span))
                plane[:, :, slice(*span)] = result
                return self._steps.moments(result)

            layer.learn(self._each(quarter, do))

        def rectify(span: Span) -> None:
            x[:, :, slice(*span)] = self._down2.rectified(self._rows_of(x, span))[..., 1:-1]

        fill(x, self._down2, self._halve)
        self._each(quarter, rectify)
        for block in self._network.blocks:
            first, second = (self._layer(layer) for layer in block)

            def add(span: Span, layer: _StripLayer = second) -> None:
                sums = layer.add_(self._rows_of(x, span), self._rows_of(b, span))
                if sums.dtype != x.dtype:  # else they are where they belong
                    x[:, :, slice(*span)] = sums

            def between(span: Span, layer: _StripLayer = first) -> Tensor:
                return self._around(a, span, layer.rectified)

            fill(a, first, lambda span: self._around(x, span, edged))
            fill(b, second, between)
            self._each(quarter, add)
        self._up.learn(self._each(half, lambda span: self._steps.moments(self._raise(x, span))))
        self._each(half, lambda span: finish(*self._leave(x, span)))

    def _layer(self, layer: Layer) -> _StripLayer:
        return _StripLayer(layer, self._style, self._steps)

    def _each(self, rows: int, do: Callable[[Span], T]) -> list[T]:
        """``do`` for all strips of the image at a resolution with so many rows."""
        per_row = self._width * self._height // rows
        height = max(4, STRIP_PIXELS // per_row)
        spans = [(start, min(start + height, rows)) for start in range(0, rows, height)]

        def one(span: Span) -> T:
            result = do(span)
            self._on_strip()
            return result

        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(torch.inference_mode()(one), spans))

    def _plane(self) -> Tensor:
        """Room for activations at a quarter of the resolution."""
        shape = (1, self._height // 4, self._width // 4, len(self._network.down2.weight))
        if self._style.device.type != "cpu" or room.fits(shape, self._dtype.itemsize):
            plane = torch.empty(shape, dtype=self._dtype, device=self._style.device)
        else:
            dtype = torch.float16 if self._dtype == torch.float32 else self._dtype
            # numpy has no bfloat16.
            plane = torch.from_numpy(room.room(shape, np.int16)).view(dtype)
        return plane.permute(0, 3, 1, 2)

    def _rows_of(self, plane: Tensor, span: Span) -> Tensor:
        return plane[:, :, slice(*span)].to(self._dtype)

    def _enter(self, span: Span) -> Tensor:
        """Rows of the first layer's result, at half the resolution."""
        start, stop = span
        pixels = self._photo[self._rows[2 * start : 2 * stop + 4]]
        if pixels.shape[1] != self._width:
            pixels = pixels[:, self._columns]
        given = torch.from_numpy(pixels).to(self._style.device).permute(2, 0, 1)[None]
        border = self._network.down1.border
        return self._down1(self._steps.entered_rows(given, self._level, border, self._dtype))

    def _halve(self, span: Span) -> Tensor:
        """What the second layer needs for rows at a quarter of the resolution."""
        start, stop = span
        wanted = self._half_rows[2 * start : 2 * stop + 1]
        return _taken(wanted, lambda rows: self._down1.rectified(self._enter(rows)))

    def _around(self, plane: Tensor, span: Span, prepared: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows of a plane, the one above and the one below, ``prepared`` for a convolution."""
        start, stop = span
        wanted = self._quarter_rows[start : stop + 2]
        return _taken(wanted, lambda rows: prepared(self._rows_of(plane, rows)))

    def _raise(self, plane: Tensor, span: Span) -> Tensor:
        """Rows of the last styled layer's result, at half the resolution."""
        start, stop = span
        first, last = start // 2, (stop + 1) // 2
        wanted = np.arange(first - 1, last + 1).clip(0, self._height // 4 - 1)
        rows = _taken(wanted, lambda rows: self._rows_of(plane, rows))
        raised = phases(self._up(edged(rows, first=0)))
        return raised[:, :, start - 2 * first : stop - 2 * first]

    def _leave(self, plane: Tensor, span: Span) -> tuple[Tensor, Span]:
        """Rows of the result, and which of the photo they are."""
        start, stop = span
        wanted = self._half_rows[start : stop + 2]
        x = _taken(wanted, lambda rows: self._up.rectified(self._raise(plane, rows)))
        styled = self._network.leave(x)
        rows, columns = self._photo.shape[:2]
        last = min(2 * stop, rows)
        return styled[:, :, : last - 2 * start, :columns], (2 * start, last)


class _StripLayer:
    """A convolution and the normalization after it, in one style."""

    def __init__(self, layer: Layer, style: Tensor, steps: ModuleType) -> None:
        self._layer, self._steps = layer, steps
        self._scale, self._shift = style[layer.scale].double(), style[layer.shift].double()
        self._slope = self._offset = self._shift

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution of rows that come with all that is under the kernel's edge."""
        return self._layer(x)

    def learn(self, strips: Sequence[Moments]) -> None:
        """Take in the statistics of the whole result, of those of its strips.

        As Chan, Golub and LeVeque 1983, eq. 2.1: squares of what is nearly all the same are too
        large to find by how little they differ.
        """
        means, squares, counts = (
            torch.tensor(part, dtype=torch.float64, device=self._scale.device)
            for part in zip(*strips, strict=True)
        )
        shares = (counts / counts.sum())[:, None]
        mean = (shares * means).sum(0)
        variance = squares.sum(0) / counts.sum() + (shares * (means - mean).square()).sum(0)
        slope = self._scale * (variance + EPS).rsqrt()
        self._slope, self._offset = slope.float(), (self._shift - mean * slope).float()

    def rectified(self, x: Tensor) -> Tensor:
        """Rows of the result, normalized and rectified, with a border on the left and right."""
        return self._steps.rectified_rows(x, self._slope, self._offset)

    def add_(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with ``y``, rows of the result, normalized and added."""
        return self._steps.add_rows_(x, y, self._slope, self._offset)


def _reflected(index: Index, before: int, after: int) -> Index:
    return np.pad(index, (before, after), mode="reflect")


def _taken(wanted: Index, make: Callable[[Span], Tensor]) -> Tensor:
    """Rows in the order ``wanted``, of those from the first to the last of them."""
    first, last = int(wanted.min()), int(wanted.max())
    rows = make((first, last + 1))
    if np.array_equal(wanted, np.arange(first, last + 1)):
        return rows
    return rows.index_select(2, torch.from_numpy(wanted - first).to(rows.device))
