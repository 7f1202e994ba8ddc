"""Draws docs/ui-*.jpg: a job's pages in the Prefect UI after some nights, as chromium shows them.

python docs/ui_pictures.py
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from prefect import get_client

from flows.demo import write_samples
from flows.server import prefect_api
from flows.stylize import stylize
from pipeline.job import Job
from tasks.names import artifact_key

WIDTH = 1400  # pixels
CHROMIUM = shutil.which("chromium") or "chromium"
PAGES = {  # what to show, its height
    "ui-runs": ("runs", 1000),
    "ui-run": ("runs/flow-run/{run}", 1000),
    "ui-summary": ("artifacts/artifact/{page}", 1700),
    "ui-failures": ("artifacts/artifact/{failures}", 600),
    "ui-form": ("deployments/deployment/{deployment}/run", 1500),
}


def main() -> None:
    """Run some nights, and look."""
    with tempfile.TemporaryDirectory() as folder, prefect_api() as address:
        os.chdir(folder)
        write_samples(Path("samples"))
        job = Job(
            source="photos", out="stylized", style="wave,starry,gold", shard_size=2, size="384",
            max_failed=0.2,
        )  # fmt: skip
        nights(job)
        deployment = stylize.to_deployment("nightly", parameters={"job": job.model_dump()})
        found = places(job) | {"deployment": deployment.apply()}
        for name, (page, height) in PAGES.items():
            picture = screenshot(f"{address}/{page.format(**found)}", height)
            picture.save(Path(__file__).parent / f"{name}.jpg", quality=80, optimize=True)


def nights(job: Job) -> None:
    """More photos every night, and one that is none."""
    photos = Path(job.source)
    photos.mkdir()
    waiting = halves()
    for count in (3, 2, 1, 8):
        for _ in range(count):
            name, photo = waiting.pop(0)
            photo.save(photos / name, quality=95)
        if count == 1:
            (photos / "download.jpg").write_text("<!DOCTYPE html><title>Sign in</title>")
        stylize(job, return_state=True)


def halves() -> list[tuple[str, Image.Image]]:
    """The sample photos' left and right halves, which are twice as many photos."""
    photos = [(path.stem, Image.open(path)) for path in sorted(Path("samples").iterdir())]
    left = [(f"{name}-1.jpg", p.crop((0, 0, p.width // 2, p.height))) for name, p in photos]
    right = [(f"{name}-2.jpg", p.crop((p.width // 2, 0, *p.size))) for name, p in photos]
    return left + right


def places(job: Job) -> dict[str, object]:
    """The last run, its page and its table of failures."""
    keys = {"page": artifact_key("summary", job.out), "failures": artifact_key("failures", job.out)}
    with get_client(sync_client=True) as client:
        artifacts = sorted(client.read_artifacts(), key=lambda one: str(one.created))
    newest = {artifact.key: artifact for artifact in artifacts}
    found: dict[str, object] = {name: newest[key].id for name, key in keys.items()}
    return found | {"run": newest[keys["page"]].flow_run_id}


def screenshot(url: str, height: int) -> Image.Image:
    """A page as a picture, WIDTH x ``height``."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu",
             f"--window-size={WIDTH},{height}", "--virtual-time-budget=20000",
             "--force-prefers-reduced-motion", "--run-all-compositor-stages-before-draw",
             f"--screenshot={file.name}", url],
            check=True, capture_output=True,
        )  # fmt: skip
        return Image.open(io.BytesIO(Path(file.name).read_bytes())).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
