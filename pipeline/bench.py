"""How fast restyle is on this machine, stage by stage and end to end, and the usual way."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.codec import Pixels, decode, encode
from pipeline.errors import RowError
from pipeline.job import Job
from pipeline.manifest import open_manifest
from pipeline.run import begin, prepare
from pipeline.spool import ShardRef
from pipeline.storage import Source, Storage
from pipeline.styles.pack import find_pack
from pipeline.text import plural
from pipeline.workers import WorkerPool, cpu_count, devices_for

SIZE = 256  # pixels
QUALITY = 92
MAX_PIXELS = 100_000_000

# Different images, of which as many copies are made as it takes.
DISTINCT = 64

# Each thing is measured for so long, after a warm-up.
SECONDS = 4.0
WARM_UP = 1.0

SHARD = 64  # images, in the measurement end to end


@dataclass(frozen=True)
class Figures:
    """Images a second of the whole machine, all of SIZE x SIZE.

    Args:
        network: pixels in memory to pixels in memory. end_to_end: JPEG files to JPEG files and
            ledger, workers running. usual_way: open, ToTensor, Johnson's network in float32,
            save, one image at a time. ratio: end_to_end over usual_way.
    """

    machine: str
    size: int
    images: int
    decode: float
    network: float
    encode: float
    end_to_end: float
    usual_way: float
    ratio: float


def measure(photos: str, count: int, tell: Callable[[str], None]) -> Figures:
    """Measure everything, one after the other, on the same images.

    Args:
        photos: a folder of images to use, scaled to SIZE; empty: synthetic ones.
        count: images to do end to end.
        tell: is told what is being measured.
    """
    folder = Path(tempfile.mkdtemp(prefix="restyle-bench-"))
    try:
        tell("making images")
        pictures = _photos(photos) if photos else _synthetic()
        files = [encode(picture, "jpg", QUALITY) for picture in pictures]
        tell("decode")
        decode_rate = _threaded(lambda data: decode(data, (SIZE, SIZE), MAX_PIXELS), files)
        tell("encode")
        encode_rate = _threaded(lambda pixels: encode(pixels, "jpg", QUALITY), pictures)
        tell("network")
        devices = devices_for(_job(folder), cpu_count())
        network_rate = _network_rate(devices)
        tell("the usual way")
        usual = _usual_way(files, folder)
        tell("end to end")
        whole = _end_to_end(files, folder, count)
        tell("the usual way, again")
        # Before and after, and the mean of both: a busy neighbour shall not decide the ratio.
        usual = (usual + _usual_way(files, folder)) / 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kind = "cuda" if devices[0].startswith("cuda") else "cpu"
    machine = f"{plural(len(devices), 'worker')} on {kind}, {plural(cpu_count(), 'core')}"
    return Figures(
        machine, SIZE, count, decode_rate, network_rate, encode_rate, whole, usual, whole / usual
    )


def _photos(source: str) -> list[Pixels]:
    storage = Storage()
    pictures: list[Pixels] = []
    for batch in open_manifest(storage, source).read():
        for uri in batch.column("source_uri").to_pylist():
            (data,) = storage.read([Source(uri)])
            if not isinstance(data, RowError):
                pictures.append(decode(data, (SIZE, SIZE), MAX_PIXELS).pixels)
            if len(pictures) == DISTINCT:
                return pictures
    return pictures


def _synthetic() -> list[Pixels]:
    """Pictures with detail at every scale, which compress about as photos do."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        picture = np.zeros((SIZE, SIZE, 3))
        for side in (2, 4, 8, 16, 32, 64, 128, 256):
            noise = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            scaled = Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            picture += (np.asarray(scaled) - 127.5) / side**0.6
        pictures.append(np.clip(picture + 127.5, 0, 255).astype(np.uint8))
    return pictures


def _rate(rounds: Iterator[int]) -> float:
    """Items a second of an endless run that yields how many each round has done."""
    end = time.perf_counter() + WARM_UP
    while time.perf_counter() < end:
        next(rounds)
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + SECONDS:
        done += next(rounds)
    return done / (time.perf_counter() - start)


def _threaded(call: Callable[[Any], Any], items: list[Any]) -> float:
    with ThreadPoolExecutor(cpu_count()) as pool:
        return _rate(sum(1 for _ in pool.map(call, items)) for _ in itertools.count())


def _network_rate(devices: list[str]) -> float:
    """Of as many processes as a run would have workers."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(devices), mp_context=context) as pool:
        return sum(pool.map(_network_rate_here, devices))


def _network_rate_here(device: str) -> float:
    import torch

    from pipeline.styles.mix import parse_style
    from pipeline.stylizer import Stylizer

    torch.set_num_threads(1)
    pack = find_pack("")
    stylizer = Stylizer(pack, device)
    size = stylizer.batch_size(SIZE, SIZE)
    batch = np.stack(list(itertools.islice(itertools.cycle(_synthetic()), size)))
    mixes = parse_style(pack.names[0], pack.names) * size
    strengths = [1.0] * size
    return _rate(len(stylizer(batch, mixes, strengths)) for _ in itertools.count())


def _job(folder: Path) -> Job:
    return Job(
        source=str(folder / "photos"),
        out=str(folder / "out"),
        style=find_pack("").names[0],
        size=str(SIZE),
        quality=QUALITY,
        shard_size=SHARD,
    )


def _end_to_end(files: list[bytes], folder: Path, count: int) -> float:
    """With workers that run already: how long a start takes does not tell how fast they are."""
    job = _job(folder)
    workers = len(devices_for(job, cpu_count()))
    photos = folder / "photos"
    photos.mkdir()
    for number, data in zip(range(count + workers * SHARD), itertools.cycle(files), strict=False):
        (photos / f"{number:06d}.jpg").write_bytes(data)
    request = prepare(job)
    _, refs = begin(request)
    pool = WorkerPool(request.job, devices_for(job, len(refs)))
    try:
        with ThreadPoolExecutor(pool.workers) as threads:
            _do(threads, pool, refs[: pool.workers])
            start = time.perf_counter()
            done = _do(threads, pool, refs[pool.workers :])
            return done / (time.perf_counter() - start)
    finally:
        pool.close()
        request.claim.release()


def _do(threads: ThreadPoolExecutor, pool: WorkerPool, refs: Iterable[ShardRef]) -> int:
    return sum(threads.map(lambda ref: pool.run(ref, lambda message: None).done, refs))


def _usual_way(files: list[bytes], folder: Path) -> float:
    """What most people do today: one image at a time through Johnson's network, in float32.

    As neural_style.py of the PyTorch examples does it, on all cores.
    """
    import torch
    from torchvision.transforms.functional import to_tensor

    from pipeline.networks.johnson import JohnsonNet

    network = JohnsonNet().eval()
    paths = [folder / f"usual-{number}.jpg" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)

    def one(path: Path) -> int:
        photo = to_tensor(Image.open(path).convert("RGB"))[None]
        with torch.no_grad():
            result = network(photo)[0]
        pixels = result.mul(255).clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(path.with_name("usual-result.jpg"), quality=QUALITY)
        return 1

    return _rate(one(path) for path in itertools.cycle(paths))
