"""Whole jobs over images that nobody would want in one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.job import Job
from pipeline.workers import WorkerPool
from tests.conftest import open_image
from tests.pipeline.runs import changed, ledger_of, plan_job, run_job
from tests.proof import hostile

# How some of them must end; of the others it is enough that they end.
ENDINGS = {
    "empty.jpg": "the file is empty",
    "page.jpg": "not an image but a web page",
    "error.png": "not an image but a web page",
    "archive.jpg": "not an image that restyle can read",
    "script.jpg": "not an image that restyle can read",
    "bomb.png": "20000x20000 is more than 100000000 pixels (--max-pixels)",
    "bomb.tif": "20000x20000 is more than 100000000 pixels (--max-pixels)",
    "bomb.webp": "16383x8000 is more than 100000000 pixels (--max-pixels)",
    "says it is large.gif": "65535x65535 is more than 100000000 pixels (--max-pixels)",
    "cut at 321.jpg": "damaged: Truncated File Read",
    **dict.fromkeys(
        ["jpeg.png", "png.jpg", "webp.gif", "CMYK.jpg", "YCCK.jpg", "LAB.tif", "I 16.png", "1.png",
         "palette and alpha.png", "animated.gif", "animated.webp", "1x1.jpg", "65500x1.jpg",
         "1x65500.png", "65535x1.png", "exif that loops.jpg", "exif that points away.jpg",
         "orientation 9.jpg", "orientation in words.jpg", "profile of nothing.jpg", "comments.jpg",
         "profile of eight megabytes.png", "ten thousand scans.jpg", "not a number.tif",
         "new\nline.jpg", "😀 ü ß 漢字.jpg", "it's \"quoted\".jpg", "%2e%2e%2fup.jpg",
         "-rf.jpg", "#?&.jpg", "back\\slash.jpg", "=1+1.jpg"]
    ),
}  # fmt: skip


def test_a_job_of_hostile_images_ends_with_each_accounted_for(job: Job, tmp_path: Path) -> None:
    source = tmp_path / "hostile"
    source.mkdir()
    corpus = hostile.corpus()
    for name, data in corpus.items():
        (source / name).write_bytes(data)
    before = set(tmp_path.rglob("*"))
    job = changed(job, source=str(source), shard_size=50, max_failed=1.0)
    summary = run_job(job)
    rows = {row["id"]: row for row in ledger_of(job.out).to_pylist()}
    assert rows.keys() ^ corpus.keys() == set()
    assert (summary.done + summary.failed, summary.rows) == (len(corpus), len(corpus))
    for name, why in ENDINGS.items():
        assert rows[name]["error_message"] == why, name
    for name, row in rows.items():
        if row["status"] == "done":
            result = Path(job.out, row["output_uri"]).read_bytes()
            assert open_image(result).shape == (64, 64, 3), name
        else:
            assert row["error_class"] in ("input", "resource"), name
            assert row["error_message"], name
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(job.out) for path in new)
    assert not list(Path(job.out).rglob("*.partial"))


def test_a_decoder_that_takes_too_long_costs_its_image_only(job: Job) -> None:
    # A real one: a file of a megabyte, and minutes to decode.
    Path(job.source, "003.jpg").write_bytes(hostile.many_scans(10_000, 8000))
    job = changed(job, max_seconds=2.0, shard_size=8)
    _, (ref,) = plan_job(job)
    pool = WorkerPool(job, ["cpu"])
    start = time.monotonic()
    try:
        result = pool.run(ref, lambda message: None)
    finally:
        pool.close()
    assert (result.done, result.failed) == (7, 1)
    assert result.failures[0].message == "decoding takes longer than 2 s (--max-seconds)"
    assert time.monotonic() - start < 120


@pytest.mark.extra
def test_no_hostile_image_takes_long_or_much_memory() -> None:
    command = [sys.executable, "-m", "tests.proof.hostile"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 250
    for row in found:
        assert row["outcome"].startswith(("done", "failed (")), row
        assert row["seconds"] < 30, row
        assert row["megabytes"] < 1500, row
