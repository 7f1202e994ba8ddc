"""Content photos: each batch a function of the seed and the step alone."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from pipeline.codec import encode
from pipeline.errors import RequestError, RowError
from pipeline.storage import Storage
from pipeline.training.content import ContentPhotos
from tests.conftest import jpeg, picture, write_photos


def photos(folder: Path, crop: int = 64, seed: int = 0) -> ContentPhotos:
    return ContentPhotos(Storage(), str(folder), crop, seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 6)


def test_a_batch_is_crops_of_the_size_asked_for(folder: Path) -> None:
    (folder / "wide.jpg").write_bytes(jpeg(300, 90))
    (folder / "tiny.png").write_bytes(encode(picture(9, 20), "png", 90))
    content = photos(folder, crop=80)
    assert len(content) == 8
    for step in range(5):
        batch = content.batch(3, step)
        assert batch.shape == (3, 80, 80, 3)
        assert batch.dtype == np.uint8


def test_the_same_seed_and_step_give_the_same_batch(folder: Path) -> None:
    assert np.array_equal(photos(folder).batch(4, 7), photos(folder).batch(4, 7))


def test_other_seeds_and_steps_give_other_batches(folder: Path) -> None:
    batches = [
        photos(folder, seed=seed).batch(4, step) for seed, step in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert not any(np.array_equal(one, other) for one, other in combinations(batches, 2))


def test_a_run_that_goes_on_gets_the_batches_it_would_have_had(folder: Path) -> None:
    whole = list(photos(folder).batches(2, 0, 6))
    rest = list(photos(folder).batches(2, 4, 6))
    assert len(whole) == 6
    assert np.array_equal(np.stack(whole[4:]), np.stack(rest))
    assert all(np.array_equal(photos(folder).batch(2, n), batch) for n, batch in enumerate(whole))


def test_all_photos_take_part_and_both_ways_round(tmp_path: Path) -> None:
    for number in range(4):
        level = 60 * number
        half_dark = np.full((64, 64, 3), level, np.uint8)
        half_dark[:, 32:] += 50
        (tmp_path / f"{number}.png").write_bytes(encode(half_dark, "png", 90))
    crops = np.concatenate([photos(tmp_path).batch(8, step) for step in range(8)]).astype(int)
    assert {round(crop.min() / 60) for crop in crops} == {0, 1, 2, 3}
    assert len({crop[0, 0, 0] < crop[0, -1, 0] for crop in crops}) == 2


def test_crops_are_most_of_the_photo(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 120).astype(np.uint8)
    square = np.repeat(np.broadcast_to(ramp, (120, 120))[:, :, None], 3, axis=2)
    (tmp_path / "ramp.png").write_bytes(encode(np.ascontiguousarray(square), "png", 90))
    spans = [np.ptp(crop) / 255 for crop in photos(tmp_path).batch(32, 0)]
    assert min(spans) > 0.72
    assert max(spans) - min(spans) > 0.1


def test_bad_photos_are_passed_over(folder: Path) -> None:
    for number in range(6):
        (folder / f"bad{number}.jpg").write_bytes(jpeg()[:500] if number % 2 else b"<html>")
    content = photos(folder)
    assert len(content) == 12
    for step in range(4):
        assert content.batch(5, step).shape == (5, 64, 64, 3)


def test_photos_that_are_gone_are_passed_over(folder: Path) -> None:
    content = photos(folder)
    for number in range(5):
        (folder / f"{number:03d}.jpg").unlink()
    assert content.batch(2, 0).shape == (2, 64, 64, 3)


def test_a_folder_of_bad_photos_only_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<html>not found</html>")
    with pytest.raises(RequestError, match=r"page\.jpg.*web page"):
        photos(tmp_path).batch(2, 0)


def test_an_address_is_told_without_what_lets_one_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "read", lambda *_: [RowError("storage", "it does not answer")])
    (tmp_path / "m.txt").write_text("s3://id:hunter2@photos/a.jpg")
    with pytest.raises(RequestError, match=r"the last one \(s3://photos/a\.jpg\)"):
        photos(tmp_path / "m.txt").batch(2, 0)


def test_a_list_of_web_photos_is_refused_without_an_option_that_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.txt").write_text("https://a.org/a.jpg")
    with pytest.raises(RequestError, match=r"'https' is .*; put the photos into a folder") as said:
        photos(tmp_path / "m.txt")
    assert "--allow-scheme" not in str(said.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no (photos|images)"):
        photos(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nowhere"):
        photos(tmp_path / "nowhere")
