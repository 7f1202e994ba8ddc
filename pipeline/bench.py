"""How fast restyle is on this machine, stage by stage and end to end, and others beside it."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from pipeline.codec import Pixels, decode, encode
from pipeline.devices import cpu_count, devices_for, kind_of
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.run import begin, prepare
from pipeline.spool import ShardRef
from pipeline.storage import Storage
from pipeline.styles.pack import find_pack
from pipeline.text import plural
from pipeline.training.content import MAX_PIXELS, ContentPhotos
from pipeline.workers import WORKER_ENVIRONMENT, WorkerPool

SIZE = 256  # pixels
QUALITY = 92

# Different images, of which as many copies are made as it takes.
DISTINCT = 64

# Each thing is measured for so long, after a warm-up.
SECONDS = 4.0
WARM_UP = 1.0

# In the measurement end to end: images of a shard, at least, and shards of a worker.
FEWEST_OF_SHARD = 64
SHARDS = 4

# Another program is watched for so long, after its first result.
RIVAL_SECONDS = 15.0
LOOK_EVERY = 0.05


@dataclass(frozen=True)
class Rival:
    """Another program that does the same: its images a second, and how many times that we do."""

    name: str
    rate: float
    ratio: float


@dataclass(frozen=True)
class Figures:
    """Images a second of the whole machine, all of SIZE x SIZE.

    Args:
        decode, network, encode: each alone on all cores: photos are decoded, results encoded;
            the network takes pixels in memory to pixels in memory.
        allowed: what these allow end to end: on a CPU they share the cores, beside a GPU decoding
            and encoding do.
        limit: which takes most.
        end_to_end: JPEG files to JPEG files and ledger, workers running.
    """

    machine: str
    size: int
    images: int
    decode: float
    network: float
    encode: float
    allowed: float
    limit: str
    end_to_end: float
    rivals: list[Rival]

    @property
    def share(self) -> float:
        """How much of what is allowed is reached, 0 to 1."""
        return self.end_to_end / self.allowed


def measure(
    photos: str, count: int, against: Sequence[Path], tell: Callable[[str], None]
) -> Figures:
    """Measure everything, one after the other, on the same images.

    Args:
        photos: a folder of images to use, scaled to SIZE; empty: synthetic ones.
        count: images to do end to end.
        against: Python programs that take a folder of photos and one for the results.
        tell: is told what is being measured.

    Raises:
        RequestError: there are no such photos, or a program failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="restyle-bench-"))
    try:
        tell("making images")
        pictures = _photos(photos) if photos else _synthetic()
        files = [encode(picture, "jpg", QUALITY) for picture in pictures]
        devices = devices_for(_job(folder), sys.maxsize)
        kind = kind_of(devices)
        shard = max(FEWEST_OF_SHARD, count // (SHARDS * len(devices)))
        _write(files, folder / "photos", count + len(devices) * shard)
        _write(files, folder / "rivals", count)
        # Before and after, and the mean of both: a busy neighbour shall not decide the ratio.
        before = _rivals(against, folder, tell)
        tell("decode")
        decoding = _threaded(lambda data: decode(data, (SIZE, SIZE), MAX_PIXELS).pixels, files)
        tell("network")
        alone = devices if kind == "cuda" else devices[:1] * cpu_count()
        network = _network_rate(alone)
        tell("end to end")
        whole = _end_to_end(folder, shard)
        tell("encode")
        results = [decode(data, None, MAX_PIXELS).pixels for data in _results(folder)]
        encoding = _threaded(lambda pixels: encode(pixels, "jpg", QUALITY), results)
        after = _rivals(against, folder, tell)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rates = {"decode": decoding, "network": network, "encode": encoding}
    shared = rates.values() if kind == "cpu" else (decoding, encoding)
    allowed = min(network, 1.0 / sum(1.0 / rate for rate in shared))
    rivals = []
    for script, one, other in zip(against, before, after, strict=True):
        rate = (one + other) / 2
        rivals.append(Rival(script.stem.replace("_", " "), rate, whole / rate))
    return Figures(
        machine=f"{plural(len(devices), 'worker')} on {kind}, {plural(cpu_count(), 'core')}",
        size=SIZE, images=count, **rates, allowed=allowed, limit=min(rates, key=rates.__getitem__),
        end_to_end=whole, rivals=rivals,
    )  # fmt: skip


def plot(figures: Figures) -> str:
    """The figures as bars, an SVG picture."""
    stages = [("decode alone", figures.decode), ("network alone", figures.network),
              ("encode alone", figures.encode), ("allowed by these", figures.allowed),
              ("end to end", figures.end_to_end)]  # fmt: skip
    rivals = [(rival.name, rival.rate) for rival in figures.rivals]
    # A scale on which ten times as fast is the same step everywhere.
    logs = [math.log(rate) for _, rate in stages + rivals]
    span = max(max(logs) - min(logs), 1e-9)
    lengths = [0.1 + 0.9 * (log - min(logs)) / span for log in logs]
    bars = zip(stages + rivals, lengths, strict=True)
    template = Environment(loader=PackageLoader("pipeline"), autoescape=True)
    return template.get_template("bench.svg").render(figures=figures, bars=bars)


def _write(files: list[bytes], folder: Path, count: int) -> None:
    folder.mkdir()
    for number, data in zip(range(count), itertools.cycle(files), strict=False):
        (folder / f"{number:06d}.jpg").write_bytes(data)


def _photos(source: str) -> list[Pixels]:
    return list(ContentPhotos(Storage(), source, SIZE, seed=0).middles(DISTINCT))


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
    """Of processes like a run's workers, one for each of ``devices``."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.bench", device],
            env=os.environ | WORKER_ENVIRONMENT, stdout=subprocess.PIPE, text=True,
        )
        for device in devices
    ]  # fmt: skip
    rates = [process.communicate()[0] for process in processes]
    for process in processes:
        if process.returncode:
            raise RequestError("the network could not be measured: see above")
    return sum(float(rate) for rate in rates)


def _network_rate_here(device: str) -> float:
    from pipeline.styles.mix import parse_style
    from pipeline.stylizer import Stylizer

    pack = find_pack("")
    stylizer = Stylizer(pack, device)
    size = stylizer.batch_size(SIZE, SIZE)
    batch = np.stack(list(itertools.islice(itertools.cycle(_synthetic()), size)))
    mixes = parse_style(pack.names[0], pack.names) * size
    strengths = [1.0] * size
    threads = stylizer.threads(1)
    with ThreadPoolExecutor(threads) as pool:

        def stylize(batch: Pixels) -> int:
            return len(stylizer(batch, mixes, strengths))

        return _rate(sum(pool.map(stylize, [batch] * threads)) for _ in itertools.count())


def _job(folder: Path) -> Job:
    return Job(
        source=str(folder / "photos"),
        out=str(folder / "out"),
        style=find_pack("").names[0],
        size=str(SIZE),
        quality=QUALITY,
    )


def _results(folder: Path) -> Iterator[bytes]:
    files = sorted((folder / "out" / "images").iterdir())
    return (file.read_bytes() for file in files[:DISTINCT])


def _end_to_end(folder: Path, shard: int) -> float:
    """With workers that run already: how long a start takes does not tell how fast they are."""
    job = _job(folder).model_copy(update={"shard_size": shard})
    request = prepare(job)
    _, refs = begin(request)
    pool = WorkerPool(request.job, devices_for(job, sys.maxsize)[: len(refs)])
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


def _rivals(scripts: Sequence[Path], folder: Path, tell: Callable[[str], None]) -> list[float]:
    rates = []
    for script in scripts:
        tell(script.name)
        # It stays until the end: ext4 without a journal takes several times as long for a new file
        # while many others have just been removed.
        out = Path(tempfile.mkdtemp(prefix="results-", dir=folder))
        rates.append(_rival(script, folder / "rivals", out))
    return rates


def _rival(script: Path, photos: Path, out: Path) -> float:
    """From its first results on, as they appear in ``out``: a start takes what it takes."""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, str(script), str(photos), str(out)], stdout=errors, stderr=errors
        )
        try:
            first = 0
            while not first and child.poll() is None:
                time.sleep(LOOK_EVERY)
                first = len(os.listdir(out))
            start = time.perf_counter()
            while child.poll() is None and time.perf_counter() < start + RIVAL_SECONDS:
                time.sleep(LOOK_EVERY)
            seconds, done = time.perf_counter() - start, len(os.listdir(out))
            if child.returncode or done == first:
                errors.seek(0)
                raise RequestError(f"{script} has failed: {errors.read()[-300:]}")
        finally:
            child.kill()
            child.wait()
    return (done - first) / seconds


if __name__ == "__main__":
    print(_network_rate_here(sys.argv[1]))
