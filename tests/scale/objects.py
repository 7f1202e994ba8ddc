"""Processor time of this end for an object of S3 that is fetched, and put: obstore and s3fs.

python -m tests.scale.objects
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.shard import CHUNK
from pipeline.storage import Source, Storage
from tests.pipeline.servers import s3_environment
from tests.scale.figures import show

ROUNDS = 9

# In a process of its own, whose time does not count.
SERVER = """
import os, sys
from tests.pipeline.servers import s3_bucket
s3_bucket()
print(os.environ["AWS_ENDPOINT_URL"], flush=True)
sys.stdin.read()
"""


@contextmanager
def bucket_elsewhere() -> Iterator[str]:
    """The URL of a bucket on a server in a process of its own; the environment leads there."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    os.environ |= s3_environment(server.stdout.readline().strip())
    try:
        yield "s3://proof"
    finally:
        server.kill()


def objects(size: int, count: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time for each, the median of alternating rounds.

    Args:
        size: bytes of an object. count: of a round.
    """
    data = os.urandom(size)
    urls = [f"s3://proof/{number:05d}.jpg" for number in range(count)]
    chunks = [urls[start : start + CHUNK] for start in range(0, count, CHUNK)]

    def put(storage: Storage) -> None:
        for chunk in chunks:
            storage.write(dict.fromkeys(chunk, data))

    def fetch(storage: Storage) -> None:
        for chunk in chunks:
            assert storage.read([Source(url) for url in chunk]) == [data] * len(chunk)

    def cost(call: Callable[[Storage], None], storage: Storage) -> float:
        start = time.process_time()
        call(storage)
        return 1000 * (time.process_time() - start) / count

    # An option that obstore does not know leaves all to s3fs; this one is s3fs's own default.
    ways = {"obstore": Storage(), "s3fs": Storage({"default_fill_cache": "1"})}
    found: dict[str, dict[str, float]] = {}
    for name, call in (("put", put), ("fetch", fetch)):
        for storage in ways.values():
            call(storage)
        rounds = [{way: cost(call, one) for way, one in ways.items()} for _ in range(ROUNDS)]
        found[name] = {way: round(statistics.median(one[way] for one in rounds), 2) for way in ways}
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=30_000, help="bytes of an object")
    parser.add_argument("--count", type=int, default=64, help="objects of a round")
    arguments = parser.parse_args()
    with bucket_elsewhere():
        show(objects(arguments.size, arguments.count))


if __name__ == "__main__":
    main()
