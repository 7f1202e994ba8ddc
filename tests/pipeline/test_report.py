from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.codec import encode
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.report import contact_sheet, data_uri, examples, write_report
from pipeline.storage import Storage
from pipeline.url import join
from tests.conftest import jpeg, open_image, picture
from tests.pipeline.runs import changed, plan_job, run_job, write_tar
from tests.pipeline.servers import files, serving

EVIL = "<script>alert(1)</script>\"'.jpg"


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(job: Job) -> Page:
    url = write_report(Storage(), job.out)
    assert url == join(job.out, "report.html")
    data = Storage().read_one(url)
    assert data is not None
    return Page(data.decode())


def test_the_report_needs_no_other_file(job: Job) -> None:
    run_job(changed(job, style="red,green,blue"))
    page = report(job)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not page.all("link")
    assert not re.search(r"@import|url\(", Path(job.out, "report.html").read_text())


def test_the_report_shows_each_original_beside_its_result(job: Job) -> None:
    run_job(changed(job, size="96x64"))
    page = report(job)
    pictures = [
        open_image(base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,")))
        for image in page.all("img")
    ]
    assert len(pictures) == 16
    assert len({pixels.shape for pixels in pictures}) == 1
    names = [f"{number:03d}.jpg" for number in range(8)]
    told = {(name, f"original of {name}", f"{name} as red") for name in names}
    alts = [image["alt"] for image in page.all("img")]
    assert {
        (b.removesuffix(" as red"), a, b) for a, b in zip(alts[::2], alts[1::2], strict=True)
    } == told
    height, width = pictures[0].shape[:2]
    assert width / height == pytest.approx(96 / 64, abs=0.02)


def test_every_style_has_a_chip(job: Job) -> None:
    run_job(changed(job, style="red,green,blue", variants=3))
    page = report(job)
    chips = [button["data-style"] for button in page.all("button")]
    assert chips[0] == ""
    assert sorted(chips[1:]) == ["blue", "green", "red"]
    assert {figure["data-style"] for figure in page.all("figure")} == {"red", "green", "blue"}


def test_one_style_needs_no_chips(job: Job) -> None:
    run_job(job)
    assert report(job).all("button") == []


def test_of_many_styles_the_report_shows_the_most_frequent(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.report.STYLES_SHOWN", 3)
    monkeypatch.setattr("pipeline.report.EXAMPLES_SHOWN", 5)
    styles = ["red:1+blue:1", "red:2+blue:1", "green", "blue", "blue", "red", "red", "red"]
    rows = [f'{{"uri": "{n:03d}.jpg", "style": "{style}"}}' for n, style in enumerate(styles)]
    manifest = Path(job.source) / "m.jsonl"
    manifest.write_text("\n".join(rows))
    run_job(changed(job, source=str(manifest)))
    page = report(job)
    chips = [button["data-style"] for button in page.all("button")]
    assert chips[:3] == ["", "red", "blue"]
    assert len(chips) == 4
    assert "and 2 further styles" in page.text
    figures = [figure["data-style"] for figure in page.all("figure")]
    assert sorted(figures) == sorted([*chips[1:], "blue", "red"])


def test_the_report_tells_figures_failures_and_settings(job: Job) -> None:
    (Path(job.source) / "003.jpg").write_bytes(b"")
    run_job(changed(job, strength=0.5))
    page = report(job)
    text = " ".join(page.text.split())
    assert "7stylized" in text.replace(" ", "")
    assert "1 failure" in text
    assert "003.jpg" in text
    assert "the file is empty" in text
    assert "strength0.5" in text
    assert not any(image["alt"].endswith("003.jpg") for image in page.all("img"))


def test_names_from_the_manifest_are_text_and_nothing_else(job: Job) -> None:
    (Path(job.source) / "001.jpg").write_bytes(b"no image")
    manifest = Path(job.source) / "m.parquet"
    ids = [EVIL, "<script>bad" + EVIL, "c"]
    pq.write_table(pa.table({"uri": ["000.jpg", "001.jpg", "002.jpg"], "id": ids}), manifest)
    summary = run_job(changed(job, source=str(manifest)))
    assert (summary.done, summary.failed) == (2, 1)
    page = report(job)
    assert len(page.all("script")) == 1
    assert "alert" not in re.findall(r"<script>(.*?)</script>", page_source(job), re.S)[0]
    assert f"original of {EVIL}" in [image["alt"] for image in page.all("img")]
    assert "<script>bad" + EVIL in page.text
    assert {
        name for _, attributes in page.tags for name in attributes if name.startswith("on")
    } == set()


def page_source(job: Job) -> str:
    return Path(job.out, "report.html").read_text()


def test_the_report_holds_no_secret(job: Job) -> None:
    manifest = Path(job.source) / "m.csv"
    with serving(files({"/a.jpg": jpeg()})) as server:
        uris = [f"{server.url}/{name}.jpg?signature=hush" for name in ("a", "none")]
        manifest.write_text("\n".join(["uri", *uris]))
        job = changed(job, source=str(manifest), allow_scheme=["http"], allow_private=True)
        run_job(job)
        assert main(["report", job.out]) == 0
        page = Page(page_source(job))
    assert "there is no such file" in page.text
    assert len(page.all("img")) == 2
    assert "hush" not in page_source(job)


def test_results_of_earlier_settings_are_not_shown(job: Job) -> None:
    bad = Path(job.source) / "007.jpg"
    bad.write_bytes(b"no image")
    run_job(changed(job, style="red"))
    bad.unlink()
    run_job(changed(job, style="green", overwrite=True, limit=3))
    assert {e.row["style"] for e in examples(Storage(), job.out, 9, 32)} == {"green"}
    page = report(job).text
    assert "007" not in page


def test_a_report_may_be_made_before_anything_is_done(job: Job) -> None:
    plan_job(job)
    page = report(job)
    assert page.all("img") == []
    assert "8" in page.text


def test_originals_that_are_gone_are_left_out(job: Job) -> None:
    run_job(job)
    for number in range(5):
        (Path(job.source) / f"{number:03d}.jpg").unlink()
    assert len(report(job).all("img")) == 2 * 3


def test_a_folder_without_a_job_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not the output folder of a job"):
        write_report(Storage(), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_report_goes_where_the_results_are(job: Job, s3: str) -> None:
    job = changed(job, out=join(s3, "out"))
    run_job(job)
    assert len(report(job).all("img")) == 16


def test_originals_in_a_tar_are_found_again(job: Job, tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": jpeg(seed=1), "b@2x.jpg": jpeg(seed=2)})
    run_job(changed(job, source=str(tmp_path / "x.tar")))
    assert len(report(job).all("img")) == 4


def test_examples_are_spread_over_the_job_and_of_every_style(job: Job) -> None:
    run_job(changed(job, style="red,green", variants=2))
    found = examples(Storage(), job.out, per_style=3, width=32)
    assert [example.row["style"] for example in found] == ["green", "red"] * 3
    assert found[0].row["id"] != found[1].row["id"]
    assert len({example.row["id"] for example in found if example.row["style"] == "red"}) == 3
    assert all(example.photo.shape == example.result.shape == (32, 32, 3) for example in found)


def test_an_example_is_an_original_and_its_own_result(job: Job) -> None:
    for path in Path(job.source).iterdir():
        path.unlink()
    for number in range(3):
        (Path(job.source) / f"{number}.png").write_bytes(encode(picture(seed=number), "png", 1))
    run_job(changed(job, strength=0, format="png"))
    found = examples(Storage(), job.out, per_style=3, width=64)
    assert len(found) == 3
    for number, example in enumerate(found):
        assert np.array_equal(example.photo, picture(seed=number))
        assert np.array_equal(example.result, example.photo)


@pytest.mark.parametrize("shape", [(1, 3000), (20, 5000), (5000, 20)])
def test_a_photo_of_an_odd_shape_has_small_pictures_too(
    job: Job, shape: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "odd.png").write_bytes(encode(picture(*shape), "png", 1))
    (tmp_path / "m.txt").write_text("odd.png")
    run_job(changed(job, source=str(tmp_path / "m.txt"), size="native", format="png"))
    (example,) = examples(Storage(), job.out, per_style=1, width=80)
    assert example.photo.shape == example.result.shape
    height, width = example.photo.shape[:2]
    assert (width, height <= 4 * width) == (80, True)
    assert len(report(job).all("img")) == 2
    assert open_image(contact_sheet(Storage(), job.out, side=50) or b"").shape == (100, 50, 3)


def test_the_contact_sheet_has_originals_above_and_results_below(job: Job) -> None:
    run_job(changed(job, style="red,green,blue", size="96x64"))
    sheet = contact_sheet(Storage(), job.out, columns=4, side=50)
    assert sheet is not None
    assert open_image(sheet).shape == (100, 200, 3)


def test_no_result_is_twice_on_the_contact_sheet(job: Job) -> None:
    run_job(changed(job, style="red,green"))
    sheet = open_image(contact_sheet(Storage(), job.out, columns=8, side=50) or b"")
    columns = sheet.shape[1] // 50
    results = {sheet[50:, 50 * column : 50 * column + 50].tobytes() for column in range(columns)}
    assert len(results) == columns > 4


def test_there_is_no_contact_sheet_of_nothing(job: Job) -> None:
    plan_job(job)
    assert contact_sheet(Storage(), job.out) is None


def test_data_uri_is_the_picture_itself() -> None:
    assert base64.b64decode(data_uri(b"picture").split(",")[1]) == b"picture"
