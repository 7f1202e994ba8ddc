"""Seven nights of a job whose photos come, change, are bad, and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.conftest import jpeg, write_photos


def nights(photos: Path, size: int = 64) -> Iterator[tuple[int, int]]:
    """Prepare the photos of one night after the other; what its run has to do, and what fails."""
    write_photos(photos, 12, size=size)
    yield 12, 0
    write_photos(photos, 3, first=12, size=size)
    yield 3, 0
    for number in (2, 5):
        (photos / f"{number:03d}.jpg").write_bytes(jpeg(size, size, 100 + number))
    yield 2, 0
    write_photos(photos, 2, first=15, size=size)
    (photos / "download.jpg").write_bytes(b"<!DOCTYPE html>")
    yield 2, 1
    yield 0, 0
    (photos / "000.jpg").unlink()
    write_photos(photos, 3, first=17, size=size)
    yield 3, 0
    (photos / "download.jpg").write_bytes(jpeg(size, size, 200))
    yield 1, 0
