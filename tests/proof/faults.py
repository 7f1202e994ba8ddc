"""A job from bucket to bucket through a proxy that fails, beside the same job through one that
does not.

python -m tests.proof.faults            # prints the figures as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.job import Job
from pipeline.storage import Storage
from pipeline.url import join
from tests.conftest import jpeg
from tests.pipeline.runs import TIMES, ledger_of, run_job
from tests.pipeline.servers import Faulty, forward, s3_bucket, serving


def compare(
    bucket: str, pack: str, style: str, rows: int, share: float, delay: float, outage: float
) -> dict[str, Any]:
    """Do a job without and with faults, the second in another folder; figures of both.

    Args:
        bucket: URL of one on the server that AWS_ENDPOINT_URL names. share: of the requests that
            fail. delay: seconds that slow answers take at most. outage: seconds in the middle of
            the job in which nobody is answered.
    """
    photos = join(bucket, "photos")
    Storage().write({join(photos, f"{n:05d}.jpg"): jpeg(256, 256, n % 50) for n in range(rows)})
    ledgers, seconds = [], []
    with serving(forward(os.environ["AWS_ENDPOINT_URL"])) as server:
        for name in ("calm", "rough"):
            job = Job(
                source=photos, out=join(bucket, name), style=style, pack=pack, size="256",
                device="cpu", storage_option=(f"endpoint_url={server.url}",),
            )  # fmt: skip
            rough = name == "rough"
            if rough:
                server.asked.clear()
                server.lot, server.delay, server.share = random.Random(0), delay, share
            start = time.monotonic()
            with _outage(server, seconds[0] / 2 if rough else 0.0, outage if rough else 0.0):
                summary = run_job(job)
            seconds.append(time.monotonic() - start)
            assert (summary.done, summary.failed) == (rows, 0), summary
            ledgers.append(ledger_of(job.out).drop_columns(TIMES))
        server.share = 0.0
    return {
        "rows": rows,
        "requests": len(server.asked),
        "faults": dict(server.failed),
        "outage": outage,
        "seconds": [round(one, 1) for one in seconds],
        "slower beyond the outage": round((seconds[1] - outage) / seconds[0], 3),
        "same ledger": ledgers[0].equals(ledgers[1]),
    }


@contextmanager
def _outage(server: Faulty, after: float, seconds: float) -> Iterator[None]:
    def begin() -> None:
        server.away_until = time.monotonic() + seconds

    timer = threading.Timer(after, begin)
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def main() -> int:
    """Print the figures; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.1, help="of the requests")
    parser.add_argument("--delay", type=float, default=3.0, help="of slow answers, seconds")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    figures = compare(s3_bucket(), "", "wave", **vars(options))
    print(json.dumps(figures, indent=2))
    return 0 if figures["same ledger"] else 1


if __name__ == "__main__":
    sys.exit(main())
