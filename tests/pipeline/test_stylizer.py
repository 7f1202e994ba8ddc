"""Pixels to stylized pixels: sizes, strengths, blends, batches, devices, memory."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline import stylizer as stylizer_module
from pipeline.codec import Pixels, decode
from pipeline.errors import RequestError, RowError
from pipeline.networks.fast import FastTransformNet
from pipeline.networks.inference import FastInference, Layer
from pipeline.styles.mix import Mix, parse_style
from pipeline.styles.pack import Pack, find_pack, read_pack
from pipeline.stylizer import IN_ONE_PIECE, Stylizer, pick_device, pick_dtype
from tests.conftest import picture

RED, GREEN, BLUE = (Mix({name: 1.0}) for name in ("red", "green", "blue"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where something else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stylizer(pack: str) -> Stylizer:
    """Of the small pack, exact."""
    return Stylizer(read_pack(Path(pack)), "cpu", "fp32")


def pictures(count: int, width: int = 48, height: int = 40) -> Pixels:
    return np.stack([picture(width, height, seed) for seed in range(count)])


def through_network(pack: str, photos: Pixels, weights: list[float]) -> Pixels:
    """What the network itself makes of photos whose sides are multiples of 4."""
    network = read_pack(Path(pack)).load()
    with torch.inference_mode():
        given = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
        styled = network(given, torch.tensor([weights])).clamp(0, 1) * 255
    return styled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def difference(ours: NDArray[Any], theirs: NDArray[Any]) -> int:
    return int(np.abs(ours.astype(int) - theirs).max())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_result_has_the_shape_and_type_of_the_photos(pack: str, precision: str) -> None:
    photos = pictures(2)
    result = Stylizer(read_pack(Path(pack)), "cpu", precision)(photos, [RED, GREEN], [1.0, 0.5])
    assert result.shape == photos.shape
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


def test_the_photos_are_left_as_they_were(stylizer: Stylizer) -> None:
    photos = pictures(2)
    before = photos.copy()
    stylizer(photos, [RED, RED], [1.0, 0.3])
    assert difference(photos, before) == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("size", [(48, 40), (37, 5)])
def test_strength_0_is_the_photo(pack: str, precision: str, size: tuple[int, int]) -> None:
    photos = pictures(2, *size)
    stylizer = Stylizer(read_pack(Path(pack)), "cpu", precision)
    assert difference(stylizer(photos, [RED, BLUE], [0.0, 0.0]), photos) == 0


def test_strength_1_is_the_network(stylizer: Stylizer, pack: str) -> None:
    photos = pictures(2)
    result = stylizer(photos, [GREEN, GREEN], [1.0, 1.0])
    expected = through_network(pack, photos, [0.0, 1.0, 0.0])
    assert difference(result, expected) <= 1
    assert (result != expected).mean() < 0.01
    assert difference(result, photos) > 20


def test_strengths_between_lie_between(stylizer: Stylizer) -> None:
    photos = pictures(1).repeat(3, axis=0)
    photo, half, full = stylizer(photos, [RED] * 3, [0.0, 0.5, 1.0]).astype(int)
    assert difference(half, (photo + full) / 2) <= 1


def test_more_strength_is_farther_from_the_photo(stylizer: Stylizer) -> None:
    strengths = [n / 10 for n in range(11)]
    photos = pictures(1).repeat(11, axis=0)
    results = stylizer(photos, [RED] * 11, strengths).astype(int)
    distances = [np.abs(result - photos[0]).mean() for result in results]
    assert distances[0] == 0
    assert all(less < more for less, more in pairwise(distances))


def test_the_photos_colours_are_kept_if_so_wished(pack: str) -> None:
    photos = np.clip(pictures(2), 90, 165)  # where nothing has to be clamped
    photos[1] = photos[1].mean(axis=2, keepdims=True).astype(np.uint8)
    keeping = Stylizer(read_pack(Path(pack)), "cpu", "fp32", preserve_colour=True)
    plain = Stylizer(read_pack(Path(pack)), "cpu", "fp32")
    mixes, strengths = [RED] * 2, [1.0] * 2
    results = [stylizer(photos, mixes, strengths) for stylizer in (keeping, plain)]
    kept, other = (
        np.stack([np.asarray(Image.fromarray(image).convert("YCbCr"), int) for image in result])
        for result in results
    )
    given = np.stack([np.asarray(Image.fromarray(photo).convert("YCbCr"), int) for photo in photos])
    inside = ((results[0] > 0) & (results[0] < 255)).all(axis=3)
    assert inside.mean() > 0.3
    assert np.abs(kept - given)[..., 1:][inside].max() <= 2
    assert np.abs(kept - other)[..., 0][inside].max() <= 2
    assert np.abs(kept - given)[..., 0].mean() > 5
    assert np.ptp(results[0][1].astype(int), axis=2).max() <= 1  # a grey photo stays grey


def test_each_image_has_its_own_style_and_strength(stylizer: Stylizer) -> None:
    photos = pictures(1).repeat(4, axis=0)
    mixes, strengths = [RED, GREEN, BLUE, GREEN], [1.0, 1.0, 1.0, 0.25]
    together = stylizer(photos, mixes, strengths)
    for index in range(4):
        part = slice(index, index + 1)
        alone = stylizer(photos[part], mixes[part], strengths[part])
        assert difference(together[part], alone) <= 1
        others = np.delete(together, index, axis=0)
        assert min(difference(alone[0], other) for other in others) > 5


def test_a_blend_mixes_what_the_styles_learned(stylizer: Stylizer, pack: str) -> None:
    photos = pictures(1)
    blend = stylizer(photos, [Mix({"red": 0.75, "blue": 0.25})], [1.0])
    assert difference(blend, through_network(pack, photos, [0.75, 0.0, 0.25])) <= 1
    assert difference(blend, stylizer(photos, [RED], [1.0])) > 3
    assert difference(blend, stylizer(photos, [BLUE], [1.0])) > 3


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 90), (5, 70), (70, 5), (31, 33), (34, 35), (63, 66)]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_any_size_is_kept(pack: str, precision: str, width: int, height: int) -> None:
    photos = pictures(2, width, height)
    result = Stylizer(read_pack(Path(pack)), "cpu", precision)(photos, [RED, GREEN], [1.0, 1.0])
    assert result.shape == (2, height, width, 3)


def test_an_odd_size_looks_like_the_nearest_even_one(stylizer: Stylizer) -> None:
    photos = pictures(1, 102, 98)
    whole = stylizer(photos, [RED], [1.0]).astype(int)
    part = stylizer(np.ascontiguousarray(photos[:, :96, :100]), [RED], [1.0])
    assert np.abs(whole[:, :64, :64] - part[:, :64, :64]).mean() < 3


def test_a_flat_tiny_photo_stays_flat(stylizer: Stylizer) -> None:
    photos = np.full((1, 3, 7, 3), 90, np.uint8)
    assert np.ptp(stylizer(photos, [RED], [1.0]), axis=(0, 1, 2)).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("styles", ["one style", "a style each"])
def test_an_image_does_not_depend_on_the_rest_of_its_batch(styles: str, precision: str) -> None:
    pack = find_pack("")
    shipped = Stylizer(pack, "cpu", precision)
    photos = pictures(4, 100, 75)
    names = pack.names[:1] * 4 if styles == "one style" else pack.names[:4]
    mixes = [Mix({name: 1.0}) for name in names]
    together = shipped(photos, mixes, [1.0] * 4)
    alone = [shipped(photos[i : i + 1], mixes[i : i + 1], [1.0]) for i in range(4)]
    assert difference(together, np.concatenate(alone)) <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_that_call_it_at_once_get_what_one_gets(precision: str) -> None:
    pack = find_pack("")
    shipped = Stylizer(pack, "cpu", precision)
    mixes = parse_style(pack.names[0], pack.names)
    photos = [pictures(1, 100, 75), *(picture(64, 64, seed)[None] for seed in range(7))]
    expected = [shipped(photo, mixes, [1.0]) for photo in photos]
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = list(pool.map(lambda photo: shipped(photo, mixes, [1.0]), photos))
    assert all(map(np.array_equal, results, expected))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_same_batch_twice_is_the_same_byte_for_byte(precision: str) -> None:
    pack = find_pack("")
    photos = pictures(4, 96, 96)
    mixes = [Mix({name: 1.0}) for name in pack.names[:4]]
    first, second = (Stylizer(pack, "cpu", precision)(photos, mixes, [1.0] * 4) for _ in range(2))
    assert difference(first, second) == 0


def test_lower_precisions_look_the_same() -> None:
    pack = find_pack("")
    # A real photo: on noise it is less.
    photo = decode((Path(pack.path).parent / "sample.jpg").read_bytes(), (256, 256), 10**6).pixels
    stylizers = [Stylizer(pack, "cpu", precision) for precision in ("fp32", "bf16", "fp16")]
    for style in pack.names[:6]:
        mixes = parse_style(style, pack.names)
        exact, *others = (one(photo[None], mixes, [1.0]).astype(int) for one in stylizers)
        for other in others:
            # A pixel differs as its worst channel does.
            assert (np.abs(other - exact).max(3) <= 2).mean() >= 0.999


@pytest.mark.parametrize("device", ["cuda:99", "cuda:64"])
def test_a_device_that_is_not_there_is_refused(pack: str, device: str) -> None:
    with pytest.raises(RequestError, match=device):
        Stylizer(read_pack(Path(pack)), device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu() -> None:
    with pytest.raises(RequestError, match="torch sees 0 CUDA devices"):
        pick_device("cuda")
    assert pick_device("auto") == torch.device("cpu")


def test_a_precision_that_is_named_is_taken() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("fp32", cpu) == torch.float32
    assert pick_dtype("bf16", cpu) == torch.bfloat16
    assert pick_dtype("fp16", cpu) == torch.float16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


def test_batches_shrink_as_images_grow(stylizer: Stylizer) -> None:
    sizes = [stylizer.batch_size(side, side) for side in (64, 128, 256, 5000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2] > 1
    assert sizes[3] == 1


@pytest.fixture
def crowded(pack: str) -> tuple[Stylizer, list[bool]]:
    """A stylizer with room for two images, and whether the batch before each was still held."""
    stylizer = Stylizer(read_pack(Path(pack)), "cpu", "fp32")
    last: list[weakref.ref[torch.Tensor]] = []
    held: list[bool] = []

    class RoomForTwo(FastInference):
        def activations(self, photos: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
            held.extend(batch() is not None for batch in last)
            last[:] = [weakref.ref(photos)]
            if len(photos) > 2 or photos.shape[-1] > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().activations(photos, mix)

    stylizer._network.__class__ = RoomForTwo
    return stylizer, held


def test_a_batch_that_does_not_fit_is_halved(
    crowded: tuple[Stylizer, list[bool]], stylizer: Stylizer
) -> None:
    photos, mixes, strengths = pictures(5), [RED, GREEN, BLUE, RED, RED], [1.0, 0.5, 1.0, 0.0, 1.0]
    result = crowded[0](photos, mixes, strengths)
    assert difference(result, stylizer(photos, mixes, strengths)) <= 1


def test_the_memory_of_a_batch_that_did_not_fit_is_free_before_the_next_attempt(
    crowded: tuple[Stylizer, list[bool]],
) -> None:
    crowded[0](pictures(4), [RED] * 4, [1.0] * 4)
    assert crowded[1] == [False, False]


def test_one_image_that_does_not_fit_is_done_in_strips(
    crowded: tuple[Stylizer, list[bool]], stylizer: Stylizer
) -> None:
    photo = pictures(1, 104)
    result = crowded[0](photo, [RED], [0.5])
    assert difference(result, stylizer(photo, [RED], [0.5])) <= 1


def test_one_image_that_does_not_fit_in_strips_either_is_a_matter_of_resources(
    crowded: tuple[Stylizer, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Layer, "__call__", no_room)
    for photo in (pictures(1, 104), pictures(1, 104, 24)):  # the second is too low for strips
        with pytest.raises(RowError, match="no memory to stylize 104x") as caught:
            crowded[0](photo, [RED], [1.0])
        assert caught.value.error_class == "resource"


def test_a_large_image_is_done_in_strips(
    pack: str, stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = pictures(2, 301, 203)
    mixes, strengths = [RED, GREEN], [1.0, 0.3]
    whole = stylizer(photos, mixes, strengths)
    monkeypatch.setitem(IN_ONE_PIECE, "cpu", 300 * 200)
    calls: list[int] = []
    monkeypatch.setattr(FastInference, "activations", lambda *_: calls.append(1))
    assert difference(stylizer(photos, mixes, strengths), whole) <= 1
    assert not calls


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from pathlib import Path
from pipeline.errors import RowError
from pipeline.styles.mix import Mix
from pipeline.styles.pack import read_pack
from pipeline.stylizer import IN_ONE_PIECE, Stylizer

stylizer = Stylizer(read_pack(Path(sys.argv[1])), "cpu", "fp32")
mixes = [Mix({"red": 1.0})]
stylizer(np.zeros((1, 64, 64, 3), np.uint8), mixes, [1.0])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
try:
    stylizer(np.zeros((1, 6000, 6000, 3), np.uint8), mixes, [1.0])
except RowError as error:
    print(error.error_class, error.message)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_one_image_that_does_not_fit_into_main_memory_is_a_matter_of_resources(pack: str) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY, pack]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("resource")
    assert "6000x6000" in done.stdout


@pytest.fixture
def no_gpu_is_needed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, tensors have a device, a dtype and a shape, and no values.

    What is asked of a GPU is refused where a GPU would refuse it: above all what mixes devices.
    """
    monkeypatch.setattr(stylizer_module, "pick_device", lambda name: torch.device(name, 0))
    for name in ("synchronize", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)

    def to_device(photos: Pixels, device: torch.device) -> torch.Tensor:
        return torch.empty(photos.shape, dtype=torch.uint8, device=device)

    monkeypatch.setattr(stylizer_module, "_to_device", to_device)
    monkeypatch.setattr(stylizer_module, "_to_host", lambda result: result)

    def load(pack: Pack) -> FastTransformNet:
        with torch.device("cuda"):
            return FastTransformNet(len(pack.cards))

    monkeypatch.setattr(Pack, "load", load)
    monkeypatch.setattr(FastTransformNet, "to", lambda network, device: network)  # it is there
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.mark.usefixtures("no_gpu_is_needed")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("preserve_colour", [False, True])
def test_all_that_a_gpu_is_asked_stays_on_it(precision: str, preserve_colour: bool) -> None:
    pack = find_pack("")
    stylizer = Stylizer(pack, "cuda", precision, preserve_colour)
    photos, mixes = np.zeros((3, 45, 70, 3), np.uint8), parse_style("wave,starry,gold", pack.names)
    for styles, strengths in (mixes, [0.5, 1.0, 0.0]), (mixes[:1] * 3, [1.0] * 3):
        result: Any = stylizer(photos, styles, strengths)
        assert (result.device.type, result.dtype) == ("cuda", torch.uint8)
        assert result.shape == photos.shape
    assert stylizer.threads(16) == stylizer._streams.qsize() == 2


@pytest.mark.usefixtures("no_gpu_is_needed")
def test_without_a_gpu_mixing_devices_is_found_out() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(2, device="cuda") + torch.zeros(2, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu_and_with_itself_in_any_batch() -> None:
    pack = find_pack("")
    photos = pictures(4, 128, 128)
    mixes = [Mix({name: 1.0}) for name in pack.names[:4]]
    cpu = Stylizer(pack, "cpu", "fp32")(photos, mixes, [1.0] * 4).astype(int)
    for precision, tolerance in (("fp32", 0.5), ("bf16", 3.0)):
        gpu = Stylizer(pack, "cuda", precision)
        together = gpu(photos, mixes, [1.0] * 4)
        alone = [gpu(photos[i : i + 1], mixes[i : i + 1], [1.0]) for i in range(4)]
        assert np.abs(together - cpu).mean() < tolerance
        assert difference(together, np.concatenate(alone)) <= 1
