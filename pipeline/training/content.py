"""Content photos: random crops, each batch a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pipeline.codec import Pixels, decode
from pipeline.errors import RequestError, RowError
from pipeline.manifest import open_manifest
from pipeline.manifest.rows import SchemeRefused
from pipeline.overlap import ahead
from pipeline.storage import Source, Storage
from pipeline.url import redact_url

MAX_PIXELS = 100_000_000

# A crop's side is the photo's shorter side divided by 1 to this.
ZOOM = 1.3

BATCHES_AHEAD = 2


class ContentPhotos:
    """Photos to train, score or measure with, wherever they are.

    Args:
        source: as of a job: a folder, prefix, glob, manifest or tar.

    Raises:
        RequestError: there are none.
    """

    def __init__(self, storage: Storage, source: str, crop: int, seed: int) -> None:
        self._storage = storage
        self._crop = crop
        self._seed = seed
        try:
            self._sources = _sources_of(storage, source)
        except SchemeRefused as error:
            # Only a job has --allow-scheme: here a photo is read again and again.
            raise RequestError(f"{error.what}; put the photos into a folder first") from error
        if not self._sources:
            raise RequestError(f"{redact_url(source)} has no photos")

    def __len__(self) -> int:
        return len(self._sources)

    def batches(self, size: int, first_step: int, steps: int) -> Iterator[Pixels]:
        """Batches for the steps from ``first_step`` up to ``steps``, (B, crop, crop, 3) uint8."""
        with ThreadPoolExecutor(BATCHES_AHEAD) as pool:
            numbers = range(first_step, steps)
            yield from ahead(pool, lambda step: self.batch(size, step), numbers, BATCHES_AHEAD)

    def batch(self, size: int, step: int) -> Pixels:
        """The batch of a step.

        Raises:
            RequestError: a hundred photos in turn could not be read.
        """
        rng = np.random.default_rng((self._seed, step))
        crops: list[Pixels] = []
        problem = RowError("input", "")
        for _ in range(size + 100):
            source = self._sources[rng.integers(len(self._sources))]
            try:
                crops.append(self._crop_of(source, rng))
            except RowError as error:  # one bad photo is no reason to stop
                problem = error
            if len(crops) == size:
                return np.stack(crops)
        raise RequestError(
            f"the photos cannot be read, the last one ({redact_url(source.uri)}): {problem}"
        )

    def middles(self, count: int) -> Pixels:
        """The middle squares of the first ``count`` photos that can be read.

        Raises:
            RequestError: there is none.
        """
        square = (self._crop, self._crop)
        squares: list[Pixels] = []
        for source in self._sources:
            (data,) = self._storage.read([source])
            try:
                if isinstance(data, RowError):
                    raise data
                squares.append(decode(data, square, MAX_PIXELS).pixels)
            except RowError:
                continue
            if len(squares) == count:
                break
        if not squares:
            raise RequestError("none of the photos can be read")
        return np.stack(squares)

    def _crop_of(self, source: Source, rng: np.random.Generator) -> Pixels:
        (data,) = self._storage.read([source])
        if isinstance(data, RowError):
            raise data
        image = Image.fromarray(decode(data, None, MAX_PIXELS).pixels)
        side = min(image.size) / rng.uniform(1.0, ZOOM)
        left = rng.uniform(0.0, image.width - side)
        top = rng.uniform(0.0, image.height - side)
        box = (left, top, left + side, top + side)
        crop = image.resize((self._crop, self._crop), Image.Resampling.BICUBIC, box=box)
        pixels = np.array(crop)
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def _sources_of(storage: Storage, source: str) -> list[Source]:
    return [
        Source(uri, offset, size)
        for batch in open_manifest(storage, source).read()
        for uri, offset, size in zip(
            batch.column("source_uri").to_pylist(),
            batch.column("_source_offset").to_pylist(),
            batch.column("source_size").to_pylist(),
            strict=True,
        )
    ]
