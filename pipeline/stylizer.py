"""Pixels to stylized pixels: one object that owns the network, the device and the precision."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codec import Pixels
from pipeline.colour import with_colour_of
from pipeline.errors import RequestError, RowError
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.inference import FastInference
from pipeline.networks.johnson import JohnsonNet
from pipeline.networks.norm import WHITE
from pipeline.room import room
from pipeline.styles.mix import Mix
from pipeline.styles.pack import Pack
from pipeline.tiling import StripNetwork

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The first generation of NVIDIA's GPUs that computes with bfloat16: its "compute capability".
AMPERE = 8

# Below this the reflecting borders of the network would be wider than what they reflect.
MIN_SIDE = 32

# What errors say that are no torch.OutOfMemoryError: of a CPU's memory, of CUDA, of its libraries.
OUT_OF_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")

# An image of more pixels than this is done in strips: less memory, and all cores for it.
IN_ONE_PIECE = {"cpu": 2048 * 2048, "cuda": 8192 * 8192}

# Batches that a GPU is given at once, each on a stream of its own: while one is computed, another
# comes or goes.
STREAMS = 2

# Pixels in a batch: enough to fill the device, few enough to stay in its caches.
BATCH_PIXELS = {"cpu": 8 * 256 * 256, "cuda": 64 * 256 * 256}


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` means here.

    Raises:
        RequestError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    # A driver that is too old for this torch has devices, but none is available.
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise RequestError(
            f"{name} is not to be had, torch sees {seen} CUDA devices here; "
            "--device cpu does without"
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision; ``auto`` is bfloat16 where the device computes with it.

    A GPU that does not takes float16.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        # Not is_bf16_supported(), for which it is enough that bfloat16 can be emulated.
        generation, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if generation >= AMPERE else torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


class Stylizer:
    """Stylizes batches of images of one size.

    Args:
        pack: the style pack.
        device, precision, preserve_colour: as in Settings.
        threads: for the strips of an image that is not done in one piece.
        on_strip: is called whenever such a strip is done, from several threads.
    """

    def __init__(
        self,
        pack: Pack,
        device: str = "auto",
        precision: str = "auto",
        preserve_colour: bool = False,
        threads: int = 1,
        on_strip: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = pick_device(device)
        self.dtype = pick_dtype(precision, self.device)
        if self.dtype == torch.float32:  # and not TF32, with 10 bits of mantissa
            torch.backends.cudnn.allow_tf32 = False
        self._preserve_colour = preserve_colour
        self._names = pack.names
        self._strip_threads, self._on_strip = threads, on_strip
        self._one_in_strips = threading.Lock()
        self._streams: queue.SimpleQueue[Any] = queue.SimpleQueue()
        network = pack.load().to(self.device)
        self._network: FastInference | _Plain
        if isinstance(network, FastTransformNet):
            self._network = FastInference(network, self.dtype)
        else:
            self._network = _Plain(network, self.dtype)
        if self.device.type != "cpu":
            torch.cuda.synchronize(self.device)  # its weights are there for all streams
            for _ in range(STREAMS):
                self._streams.put(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def threads(self, cores: int) -> int:
        """How many threads should call it at once, on so many cores.

        On a CPU that is how it uses them: torch's own threads would share each sum between
        them, and a result would depend on how many there are.
        """
        return cores if self.device.type == "cpu" else STREAMS

    @property
    def is_waited_for(self) -> bool:
        """Whether another device computes, so that a thread that calls it leaves its core free."""
        return self.device.type != "cpu"

    def memory(self) -> int:
        """Bytes of a GPU's memory that it holds; 0 on a CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    @property
    def batch_pixels(self) -> int:
        """How many pixels to give at once, if that is not less than one image."""
        return BATCH_PIXELS[self.device.type]

    def batch_size(self, height: int, width: int) -> int:
        """How many images of this size to give at once."""
        return max(1, self.batch_pixels // (height * width))

    def __call__(self, photos: Pixels, mixes: Sequence[Mix], strengths: Sequence[float]) -> Pixels:
        """Stylize images of one size.

        Args:
            photos: (B, H, W, 3) uint8, sRGB.
            mixes: B blends of styles. strengths: B numbers, 0 (the photo) to 1.

        Returns:
            (B, H, W, 3) uint8.

        Raises:
            RowError: not even one image fits into the device's memory.
        """
        height, width = photos.shape[1:3]
        # Of another network it is not known what a strip needs of its neighbours.
        network = self._network if isinstance(self._network, FastInference) else None
        if min(height, width) < MIN_SIDE:
            network = None
        if not network or height * width <= IN_ONE_PIECE[self.device.type]:
            try:
                with self._on_a_stream():
                    return self._stylize(photos, mixes, strengths)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
        # Not inside the except: the error holds on to what did not fit.
        if len(photos) > 1:
            half = len(photos) // 2
            parts = [slice(0, half), slice(half, None)]
            return np.concatenate([self(photos[p], mixes[p], strengths[p]) for p in parts])
        if network:
            return self._in_strips(network, photos[0], mixes[0], strengths[0])[None]
        raise RowError("resource", f"no memory to stylize {width}x{height}")

    @contextmanager
    def _on_a_stream(self) -> Iterator[None]:
        """Inside, what this thread gives a GPU goes by a stream that no other thread uses."""
        if self.device.type == "cpu":
            yield
            return
        # Always the same few: torch keeps memory for each stream that there ever was.
        stream = self._streams.get()
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)

    @torch.inference_mode()
    def _stylize(self, photos: Pixels, mixes: Sequence[Mix], strengths: Sequence[float]) -> Pixels:
        network, mix = self._network, self._weights(mixes)
        # (B, H, W, 3) in memory is what channels_last is: no copy.
        given = _to_device(photos, self.device).permute(0, 3, 1, 2)
        height, width = photos.shape[1:3]
        inputs = _padded(given, network.stride)
        if isinstance(network, FastInference) and network.finishes and not self._preserve_colour:
            result = network.finished(inputs, mix, torch.tensor(strengths))
            return _to_host(result[:, :, :height, :width].permute(0, 2, 3, 1).contiguous())
        styled = network(inputs, mix)[:, :, :height, :width]
        return self._finished(given, styled, strengths)

    def _in_strips(
        self, network: FastInference, photo: Pixels, mix: Mix, strength: float
    ) -> Pixels:
        """Stylize one image, (H, W, 3) uint8, that is too large to be done in one piece."""
        style = (self._weights([mix]) @ network.styles)[0]
        # One at a time: the memory is for one.
        with self._one_in_strips:
            try:
                result = room(photo.shape)

                def finish(styled: Tensor, rows: tuple[int, int]) -> None:
                    part = slice(*rows)
                    given = _to_device(photo[None, part], self.device).permute(0, 3, 1, 2)
                    result[part] = self._finished(given, styled, [strength])[0]

                strips = StripNetwork(network, style, photo, self._strip_threads, self._on_strip)
                strips.run(finish)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                height, width = photo.shape[:2]
                raise RowError("resource", f"no memory to stylize {width}x{height}") from error
        return result

    def _finished(self, given: Tensor, styled: Tensor, strengths: Sequence[float]) -> Pixels:
        """Results from photos, (B, 3, H, W) uint8, and what the network makes of them."""
        styled = styled.float().clamp_(0.0, 1.0)
        if self._preserve_colour:
            styled = with_colour_of(given / 255.0, styled)
        if min(strengths) < 1.0:
            # Without waiting for what the device is at.
            strength = torch.tensor(strengths).to(self.device, non_blocking=True)
            styled = torch.lerp(given / 255.0, styled, strength[:, None, None, None])
        result = styled.mul_(255.0).round_().to(torch.uint8)
        return _to_host(result.permute(0, 2, 3, 1).contiguous())

    def _weights(self, mixes: Sequence[Mix]) -> Tensor:
        """(1, styles) if all mixes are the same, else (B, styles)."""
        if all(mix == mixes[0] for mix in mixes):
            mixes = mixes[:1]
        rows = [[mix.parts.get(name, 0.0) for name in self._names] for mix in mixes]
        return torch.tensor(rows, device=self.device)


class _Plain:
    """A network that is run as it is, but for its precision."""

    def __init__(self, network: JohnsonNet, dtype: torch.dtype) -> None:
        self.stride, self._dtype = network.stride, dtype
        self._network = network.to(memory_format=torch.channels_last)
        for module in self._network.modules():
            # The statistics of the normalization stay float32.
            if isinstance(module, nn.Conv2d):
                module.to(dtype)

    def __call__(self, photos: Tensor, mix: Tensor) -> Tensor:
        """As FastInference does."""
        return self._network(photos.to(self._dtype) / WHITE, mix)


def _to_device(photos: Pixels, device: torch.device) -> Tensor:
    """``photos`` there; on a GPU soon, without waiting for it."""
    given = torch.from_numpy(photos)
    return given if device.type == "cpu" else given.pin_memory().to(device, non_blocking=True)


def _to_host(result: Tensor) -> Pixels:
    """``result`` as an array, when it is done."""
    if result.device.type != "cpu":
        here = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        here.copy_(result, non_blocking=True)
        # Torch's own wait would spin, on the core that decodes and encodes meanwhile.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        torch.cuda.current_stream(result.device).record_event(done).synchronize()
        result = here
    pixels: Pixels = result.numpy()
    return pixels


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch has no class for it, nor for what CUDA's libraries say.
    of_its_own = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return of_its_own or any(words in str(error) for words in OUT_OF_MEMORY)


def _padded(images: Tensor, stride: int) -> Tensor:
    """(B, 3, H, W) continued on the right and below to multiples of ``stride``."""
    height, width = images.shape[2:]
    down = max(MIN_SIDE, -(-height // stride) * stride) - height
    right = max(MIN_SIDE, -(-width // stride) * stride) - width
    if not down and not right:
        return images
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, down), mode)
