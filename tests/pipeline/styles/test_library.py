"""Where styles are found, and how others are added."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import main
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.johnson import JohnsonNet
from pipeline.run import prepare
from pipeline.storage import Storage
from pipeline.styles.add import add_pack
from pipeline.styles.library import choose_pack, packs_at, user_folder
from pipeline.styles.mix import styles_in
from pipeline.styles.pack import SHIPPED, Card, read_pack, save_pack
from tests.pipeline.runs import plan_job


@pytest.fixture(autouse=True)
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_pack(path: Path, *names: str, rights: str = "") -> Path:
    torch.manual_seed(len(names))
    network = FastTransformNet(len(names), half=4, quarter=8, blocks=1)
    network.styles.data += 0.3 * torch.randn_like(network.styles)
    save_pack(path, network, [Card(name, rights=rights) for name in names])
    return path


@pytest.fixture
def candy(tmp_path: Path) -> Path:
    """A checkpoint as the PyTorch examples write it."""
    torch.manual_seed(0)
    network = JohnsonNet()
    network.deconv3.conv2d.weight.data *= 300  # so that it shows something
    network.deconv3.conv2d.bias.data.fill_(128)
    torch.save(network.state_dict(), tmp_path / "candy.pth")
    return tmp_path / "candy.pth"


# Finding


@pytest.mark.parametrize(
    ("expression", "names"),
    [("wave", {"wave"}), ("a, b:2+c ,d", {"a", "b", "c", "d"}), ("a:1+a:2", {"a"})],
)
def test_the_names_in_an_expression(expression: str, names: set[str]) -> None:
    assert styles_in(expression) == names


def test_without_a_place_the_shipped_pack_comes_first_and_then_the_users() -> None:
    assert [pack.path for pack in packs_at("", Storage())] == [SHIPPED]
    mine = make_pack(user_folder() / "mine.safetensors", "mine", "wave")
    packs = packs_at("", Storage())
    assert [pack.path for pack in packs] == [SHIPPED, mine]
    assert choose_pack(packs, "wave").path == SHIPPED
    assert choose_pack(packs, "mine,mine:1+wave:2").path == mine


def test_a_place_is_a_pack_or_a_folder_of_packs(tmp_path: Path, candy: Path) -> None:
    one = make_pack(tmp_path / "packs" / "one.safetensors", "a", "b")
    (tmp_path / "packs" / "one.png").write_bytes(b"a picture")
    two = (tmp_path / "packs" / "two.pth").write_bytes(candy.read_bytes())
    assert two
    assert [pack.names for pack in packs_at(str(one), Storage())] == [["a", "b"]]
    assert [pack.names for pack in packs_at(str(one.parent), Storage())] == [["a", "b"], ["two"]]


def test_a_place_may_be_in_a_bucket(tmp_path: Path, s3: str) -> None:
    pack = make_pack(tmp_path / "one.safetensors", "a")
    with fsspec.open(f"{s3}/styles/one.safetensors", "wb") as file:
        file.write(pack.read_bytes())
    for place in (f"{s3}/styles", f"{s3}/styles/", f"{s3}/styles/one.safetensors"):
        (found,) = packs_at(place, Storage())
        assert found.names == ["a"]
        assert found.digest == read_pack(pack).digest
    with pytest.raises(RequestError, match=r"no style pack at s3://photos/styles/two\.safetensors"):
        packs_at(f"{s3}/styles/two.safetensors", Storage())
    with pytest.raises(RequestError, match="s3://photos/nothing has no style packs"):
        packs_at(f"{s3}/nothing", Storage())


def test_a_folder_without_packs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no style packs"):
        packs_at(str(tmp_path), Storage())


def test_styles_of_different_packs_are_not_mixed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_pack(tmp_path / f"{name}.safetensors", name)
    packs = packs_at(str(tmp_path), Storage())
    with pytest.raises(RequestError, match="of different packs"):
        choose_pack(packs, "one+two")
    with pytest.raises(RequestError, match=r"unknown style 'tow': did you mean 'two'.*one, two"):
        choose_pack(packs, "tow")


# Adding


def test_a_checkpoint_becomes_a_pack_that_jobs_find(
    job: Job, candy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["styles", "add", str(candy), "--rights", "CC0", "--artist", "me"]) == 0
    assert "candy" in capsys.readouterr().out
    (pack,) = packs_at(str(user_folder()), Storage())
    assert pack.cards == (Card("candy", artist="me", rights="CC0", source="candy.pth"),)
    ours, theirs = pack.load().state_dict(), torch.load(candy, weights_only=True)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    sheet = Image.open(user_folder() / "candy.png")
    assert sheet.size == (512, 256)
    left, right = np.split(np.asarray(sheet, int), 2, axis=1)
    assert abs(left - right).mean() > 5

    request = prepare(job.model_copy(update={"style": "candy", "pack": ""}))
    assert request.pack.path == user_folder() / "candy.safetensors"
    assert request.job.pack == ""  # so it is found wherever it has been added
    assert main(["styles", "list"]) == 0
    listed = capsys.readouterr().out
    assert "candy" in listed
    assert "wave" in listed


def test_a_pack_is_added_to_a_bucket(tmp_path: Path, s3: str, job: Job) -> None:
    pack = make_pack(tmp_path / "one.safetensors", "a", "b")
    added = add_pack(pack, f"{s3}/styles", {}, Storage())
    assert (added.place, added.sheet) == (f"{s3}/styles/one.safetensors", f"{s3}/styles/one.png")
    with fsspec.open(added.sheet, "rb") as file:
        assert Image.open(io.BytesIO(file.read())).size == (3 * 256, 256)
    request = prepare(job.model_copy(update={"style": "b", "pack": f"{s3}/styles"}))
    assert request.pack.names == ["a", "b"]


def test_a_name_that_is_taken_needs_another(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "one.safetensors", "wave")
    with pytest.raises(RequestError, match=r"a style 'wave' in classics\.safetensors already"):
        add_pack(pack, "", {}, Storage())
    add_pack(pack, "", {"name": "ripples"}, Storage())
    with pytest.raises(RequestError, match="'ripples'"):
        add_pack(pack, "", {"name": "ripples"}, Storage())
    assert add_pack(pack, str(tmp_path / "elsewhere"), {}, Storage()).pack.names == ["wave"]


def test_a_pack_of_the_same_file_name_stays(tmp_path: Path) -> None:
    add_pack(make_pack(tmp_path / "both.safetensors", "a", "b"), "", {}, Storage())
    mine = user_folder() / "both.safetensors"
    before = mine.read_bytes()
    other = make_pack(tmp_path / "other" / "both.safetensors", "c", "d")
    with pytest.raises(RequestError, match=r"both\.safetensors already; rename"):
        add_pack(other, "", {}, Storage())
    assert mine.read_bytes() == before
    one = make_pack(tmp_path / "one.safetensors", "e")
    with pytest.raises(RequestError, match=r"both\.safetensors already; give --name"):
        add_pack(one, "", {"name": "both"}, Storage())
    assert mine.read_bytes() == before
    place = add_pack(other, str(tmp_path / "elsewhere"), {}, Storage()).place
    assert place == str(tmp_path / "elsewhere" / "both.safetensors")


def test_a_picture_that_is_there_stays(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "one.safetensors", "paint")
    painting = tmp_path / "own" / "paint.png"
    painting.parent.mkdir()
    painting.write_bytes(b"a painting")
    with pytest.raises(RequestError, match=r"own/paint\.png already; give --name"):
        add_pack(pack, str(painting.parent), {}, Storage())
    assert painting.read_bytes() == b"a painting"
    assert [path.name for path in painting.parent.iterdir()] == ["paint.png"]


@pytest.mark.parametrize("name", ["a b", "a,b", "../a", "a:1"])
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    pack = make_pack(tmp_path / "one.safetensors", "a")
    with pytest.raises(RequestError, match="cannot name a style"):
        add_pack(pack, "", {"name": name}, Storage())
    assert not user_folder().exists()


def test_a_network_that_makes_nothing_of_a_photo_is_refused(tmp_path: Path) -> None:
    network = FastTransformNet(1, half=4, quarter=8, blocks=1)
    network.out.weight.data.zero_()
    save_pack(tmp_path / "dead.safetensors", network, [Card("dead")])
    with pytest.raises(RequestError, match="'dead' makes a photo one flat area"):
        add_pack(tmp_path / "dead.safetensors", "", {}, Storage())
    assert not user_folder().exists()


def test_what_is_no_pack_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(RequestError, match=r"other\.pth: the weights cannot be loaded"):
        add_pack(tmp_path / "other.pth", "", {}, Storage())
    pack = make_pack(tmp_path / "two.safetensors", "a", "b")
    with pytest.raises(RequestError, match="has 2 styles, whose cards speak for themselves"):
        add_pack(pack, "", {"rights": "CC0"}, Storage())


# Rights


def test_a_style_without_rights_is_refused_where_they_are_required(job: Job) -> None:
    with pytest.raises(RequestError, match="--require-rights: the card of 'red' does not say"):
        prepare(job.model_copy(update={"require_rights": True}))


def test_a_row_cannot_name_a_style_without_rights_either(tmp_path: Path, job: Job) -> None:
    network = FastTransformNet(2, half=4, quarter=8, blocks=1)
    cards = [Card("free", rights="CC0"), Card("unclear")]
    save_pack(tmp_path / "both.safetensors", network, cards)
    rows = "".join(f'{{"uri": "photos/00{n}.jpg", "style": "unclear"}}\n' for n in range(2))
    (tmp_path / "rows.jsonl").write_text(rows)
    update = {"source": str(tmp_path / "rows.jsonl"), "style": "free", "require_rights": True,
              "pack": str(tmp_path / "both.safetensors")}  # fmt: skip
    with pytest.raises(RequestError, match="unclear"):
        plan_job(job.model_copy(update=update))
    update["require_rights"] = False
    assert [ref.rows for ref in plan_job(job.model_copy(update=update))[1]] == [2]


def test_rights_go_into_job_json(tmp_path: Path, job: Job) -> None:
    pack = make_pack(tmp_path / "packs" / "free.safetensors", "a", "b", rights="CC BY 4.0")
    plan_job(job.model_copy(update={"style": "b", "pack": str(pack)}))
    record = json.loads((Path(job.out) / "job.json").read_text())
    assert record["styles"] == {
        "b": {"title": "", "artist": "", "year": "", "rights": "CC BY 4.0", "source": ""}
    }


def test_what_is_no_checkpoint_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "junk.pth"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(RequestError) as caught:
        add_pack(path, str(tmp_path / "to"), {}, Storage())
    assert "no checkpoint, or one that holds more than weights" in str(caught.value)
    assert "weights_only" not in str(caught.value)
