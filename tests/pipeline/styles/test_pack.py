"""Style packs: written, read, refused; and the one that comes with restyle."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import RequestError
from pipeline.networks.fast import FastTransformNet
from pipeline.styles.mix import Mix
from pipeline.styles.pack import SHIPPED, Card, find_pack, read_pack, save_pack
from pipeline.stylizer import Stylizer
from tests.conftest import picture

CARDS = [
    Card("wave", "神奈川沖浪裏", "Hokusai", "c. 1831", "public domain", "woodblock print"),
    Card("plain", training={"steps": 10, "crop": 64}, quality={"ssim": 0.5}),
]


def network(seed: int = 0, styles: int = 2) -> FastTransformNet:
    torch.manual_seed(seed)
    made = FastTransformNet(styles, half=4, quarter=8, blocks=1)
    made.styles.data += 0.3 * torch.randn_like(made.styles)
    return made.eval()


def test_a_pack_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "mine.safetensors"
    save_pack(path, network(), CARDS)
    pack = read_pack(path)
    assert pack.names == ["wave", "plain"]
    assert list(pack.cards) == CARDS
    photos, mix = torch.rand(1, 3, 32, 32), torch.tensor([[0.3, 0.7]])
    loaded = pack.load()
    assert not loaded.training
    with torch.inference_mode():
        torch.testing.assert_close(loaded(photos, mix), network()(photos, mix), rtol=0, atol=0)


def test_the_digest_is_that_of_the_file_and_changes_with_the_weights(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / f"{name}.safetensors" for name in ("one", "copy", "other"))
    save_pack(one, network(0), CARDS)
    save_pack(other, network(1), CARDS)
    copy.write_bytes(one.read_bytes())
    assert read_pack(one).digest == hashlib.sha256(one.read_bytes()).hexdigest()
    assert read_pack(one).digest == read_pack(copy).digest
    assert read_pack(one).digest != read_pack(other).digest


def test_the_same_weights_and_cards_make_the_same_file(tmp_path: Path) -> None:
    files = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_pack(path, network(), CARDS)
        files.add(path.read_bytes())
    assert len(files) == 1


def test_each_style_needs_one_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 styles but 2 cards"):
        save_pack(tmp_path / "mine.safetensors", network(styles=3), CARDS)
    assert not (tmp_path / "mine.safetensors").exists()


def test_a_pack_is_found_by_path_or_is_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_pack(tmp_path / "mine.safetensors", network(), CARDS)
    assert find_pack(str(tmp_path / "mine.safetensors")).names == ["wave", "plain"]
    assert find_pack("~/mine.safetensors").names == ["wave", "plain"]
    assert find_pack("").path == SHIPPED


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing.pth", "."])
def test_a_missing_pack_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="no style pack at"):
        read_pack(tmp_path / name)


@pytest.mark.parametrize("size", [0, 5, 100, 1000], ids=lambda size: f"{size} bytes")
def test_a_pack_that_was_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.safetensors"
    save_pack(path, network(), CARDS)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RequestError, match=r"cut\.safetensors is not a style pack"):
        read_pack(path)


TWO = [{"name": "a"}, {"name": "b"}]


def write_foreign(path: Path, header: object) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(dict(network().state_dict()), path, metadata={"restyle": text})


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        5,
        "[{",
        {"network": "fast", "config": {}},
        {"network": "fast", "config": {}, "cards": [{"artist": "nobody"}]},
        {"network": "fast", "config": {}, "cards": [{"name": "a", "colour": "red"}]},
        {"network": "fast", "config": {}, "cards": 5},
        {"config": {}, "cards": []},
    ],
)
def test_safetensors_that_are_no_pack_are_refused(tmp_path: Path, header: object) -> None:
    path = tmp_path / "other.safetensors"
    write_foreign(path, header)
    with pytest.raises(RequestError, match=r"other\.safetensors is not a style pack"):
        read_pack(path)


def test_safetensors_without_a_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(RequestError, match=r"other\.safetensors is not a style pack"):
        read_pack(path)


@pytest.mark.parametrize(
    "header",
    [
        {"config": {"styles": 3, "half": 4, "quarter": 8, "blocks": 1}},
        {"config": {"styles": 2, "half": 4, "quarter": 8, "blocks": 2}},
        {"config": {"styles": 2, "wings": 4}},
        {"config": {}},
        {"config": []},
        {"cards": [*TWO, {"name": "c"}]},
        {"network": "transformer"},
    ],
)
def test_weights_that_do_not_fit_their_header_are_refused(
    tmp_path: Path, header: dict[str, object]
) -> None:
    path = tmp_path / "odd.safetensors"
    write_foreign(path, {"network": "fast", "config": network().config, "cards": TWO} | header)
    pack = read_pack(path)
    with pytest.raises(RequestError, match=r"odd\.safetensors: the weights cannot be loaded"):
        pack.load()


def test_reading_cards_needs_no_torch() -> None:
    code = (
        "import sys; from pipeline.styles.pack import find_pack; assert find_pack('').names; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The shipped pack


def test_the_shipped_pack_is_small() -> None:
    assert SHIPPED.stat().st_size < 3_000_000


def test_every_shipped_style_says_what_it_is() -> None:
    cards = find_pack("").cards
    assert len(cards) >= 4
    assert len({card.name for card in cards}) == len(cards)
    for card in cards:
        assert all((card.title, card.artist, card.year, card.rights, card.source)), card.name


@pytest.fixture(scope="module")
def photo_and_results() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A photo, and what the shipped styles make of it."""
    pack = find_pack("")
    photos = picture(128, 128)[None].repeat(len(pack.names), axis=0)
    mixes = [Mix({name: 1.0}) for name in pack.names]
    results = Stylizer(pack, "cpu", "fp32")(photos, mixes, [1.0] * len(mixes))
    return photos[0].astype(int), dict(zip(pack.names, results.astype(int), strict=True))


def test_shipped_styles_differ_from_the_photo_and_from_each_other(
    photo_and_results: tuple[np.ndarray, dict[str, np.ndarray]],
) -> None:
    photo, results = photo_and_results
    for name, result in results.items():
        assert np.abs(result - photo).mean() > 10, name
    for one, other in combinations(results, 2):
        assert np.abs(results[one] - results[other]).mean() > 10, (one, other)


def test_shipped_styles_paint_pictures(
    photo_and_results: tuple[np.ndarray, dict[str, np.ndarray]],
) -> None:
    for name, result in photo_and_results[1].items():
        assert result.std() > 15, name
        assert ((result == 0) | (result == 255)).mean() < 0.5, name
