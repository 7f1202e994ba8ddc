"""The demo: sample photos in every style that is on board, and a page of them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from rich.console import Console

from flows.terminal import run_flow, show_summary
from pipeline.errors import RequestError
from pipeline.folder import make_folder
from pipeline.job import Job
from pipeline.report import write_report
from pipeline.run import prepare
from pipeline.storage import Storage
from pipeline.styles.pack import find_pack

# Photos that come with scikit-image and are in the public domain or CC0.
SAMPLES = ("astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "moon", "rocket")


def run_demo(out: str) -> int:
    """Stylize the sample photos and write the page; the exit code.

    Raises:
        RequestError: ``out`` is no folder to write in, or scikit-image is not installed.
    """
    photos = make_folder(f"{out}/photos")
    write_samples(photos)
    names = find_pack("").names
    job = Job(
        source=str(photos),
        out=str(photos.with_name("stylized")),
        style=",".join(names),
        variants=len(names),
    )
    prepare(job)
    summary = run_flow(job)
    show_summary(summary)
    page = write_report(Storage(), job.resolved().out)
    Console(highlight=False, soft_wrap=True).print(f"\nopen [bold]{page}[/] in a browser")
    return 0 if summary.succeeded else 1


def write_samples(folder: Path) -> None:
    """Write the sample photos that are not there yet, as JPEG."""
    try:
        from skimage import data
    except ImportError:
        raise RequestError(
            "the demo takes its photos from scikit-image: pip install 'restyle[demo]'"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for name in SAMPLES:
        path = folder / f"{name}.jpg"
        if not path.exists():
            Image.fromarray(getattr(data, name)()).save(path, quality=95)
