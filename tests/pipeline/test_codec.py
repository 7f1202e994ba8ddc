"""Bytes to pixels and back, with the files that cameras, editors and bad servers leave behind."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.codec import Photo, Pixels, decode, encode
from pipeline.errors import RowError
from pipeline.styles.add import SAMPLE
from tests.conftest import jpeg, picture

LIMIT = 1_000_000
ORANGE = (200, 100, 50)
WHITE = (255, 255, 255)

# How a camera held that way stores an upright scene (Exif 2.32, 4.6.4 A).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(
    width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def icon_of(png: bytes) -> bytes:
    """An ICO that says 16x16 and holds ``png``."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + png


def quarters() -> Pixels:
    """32 wide, 16 high: red, green; blue, grey."""
    scene = np.full((16, 32, 3), 128, np.uint8)
    scene[:8, :16], scene[:8, 16:], scene[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return scene


def bands() -> Pixels:
    """300 wide, 100 high: red, green, blue from left to right."""
    return np.repeat(np.eye(3, dtype=np.uint8) * 250, 100, axis=0)[None].repeat(100, axis=0)


def swapped_profile(name: str = "swap") -> bytes:
    """sRGB with the primaries of red and blue exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB built-in".encode("utf-16-be"), f"{name:13}".encode("utf-16-be"))
    table = profile[:512].replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ")
    return table.replace(b"tmp!", b"bXYZ") + profile[512:]


def difference(ours: NDArray[Any], theirs: Any) -> float:
    return float(np.abs(ours.astype(float) - np.asarray(theirs, float)).max())


def mean_difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours.astype(float) - theirs).mean())


def refused(data: bytes, size: tuple[int, int] | None = None, limit: int = LIMIT) -> RowError:
    with pytest.raises(RowError) as caught:
        decode(data, size, limit)
    return caught.value


def assert_pixels(photo: Photo, height: int, width: int) -> None:
    assert photo.pixels.shape == (height, width, 3)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous


# Orientation


@pytest.mark.parametrize("size", [None, (32, 16), (8, 4)], ids=["native", "fixed", "smaller"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_photos_stand_upright(
    image_format: str, orientation: int, size: tuple[int, int] | None
) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](quarters())))
    photo = decode(saved(stored, image_format, exif=exif_of(orientation)), size, LIMIT)
    scale = 4 if size == (8, 4) else 1
    assert_pixels(photo, 16 // scale, 32 // scale)
    assert mean_difference(photo.pixels, quarters()[::scale, ::scale]) < 25
    assert (photo.width, photo.height) == (32, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_crop_is_taken_of_the_upright_photo(orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](bands())))
    photo = decode(saved(stored, "PNG", exif=exif_of(orientation)), (200, 100), LIMIT)
    assert difference(photo.pixels, bands()[:, 50:250]) == 0


@pytest.mark.parametrize("size", [None, (32, 16), (16, 8), (10, 10)])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", exif_of(0), exif_of(9), exif_of(65535)]
)
def test_a_broken_orientation_is_none(exif: bytes, size: tuple[int, int] | None) -> None:
    plain = decode(saved(Image.fromarray(quarters()), "JPEG"), size, LIMIT)
    broken = decode(saved(Image.fromarray(quarters()), "JPEG", exif=exif), size, LIMIT)
    assert difference(broken.pixels, plain.pixels) == 0
    assert (broken.width, broken.height) == (32, 16)


# Modes, formats and colour


def colour_image(mode: str) -> tuple[Image.Image, tuple[int, int, int]]:
    """An image of one colour in ``mode``, and that colour as it should come out."""
    orange = Image.new("RGB", (8, 6), ORANGE)
    if mode == "1":
        return Image.new("1", (8, 6), 1), WHITE
    if mode in ("L", "LA"):
        return Image.new("L", (8, 6), 90).convert(mode), (90, 90, 90)
    if mode in ("P", "PA"):
        image = Image.new("P", (8, 6), 1)
        image.putpalette([0, 0, 0, *ORANGE])
        return image.convert(mode), ORANGE
    if mode == "I;16":
        return Image.fromarray(np.full((6, 8), 0x8040, np.uint16)), (128, 128, 128)
    if mode == "I;16B":
        return Image.fromarray(np.full((6, 8), 0x8040, ">u2")), (128, 128, 128)
    if mode == "I":
        return Image.fromarray(np.full((6, 8), 0x8040, np.int32)), (128, 128, 128)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(orange, srgb, lab, outputMode="LAB")
        assert image is not None
        del image.info["icc_profile"]
        return image, ORANGE
    return orange.convert(mode), ORANGE


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        ("1", "PNG"),
        ("1", "TIFF"),
        ("L", "PNG"),
        ("L", "JPEG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("P", "GIF"),
        ("P", "BMP"),
        ("PA", "TIFF"),
        ("RGB", "JPEG"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "JPEG"),
        ("YCbCr", "TIFF"),
        ("LAB", "TIFF"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("I;16B", "TIFF"),
        ("I", "TIFF"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, image_format: str) -> None:
    image, expected = colour_image(mode)
    photo = decode(saved(image, image_format), None, LIMIT)
    assert_pixels(photo, 6, 8)
    assert difference(photo.pixels, expected) <= 3


@pytest.mark.parametrize(
    "image_format",
    ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "PPM", "TGA", "PCX"],
)
def test_every_format_is_read(image_format: str) -> None:
    photo = decode(saved(Image.new("RGB", (8, 6), ORANGE), image_format), None, LIMIT)
    assert_pixels(photo, 6, 8)
    assert photo.format == image_format
    assert (photo.width, photo.height) == (8, 6)
    assert difference(photo.pixels, ORANGE) <= 4


def test_what_a_phone_makes_is_read_and_stands_upright() -> None:
    """``quarters()`` four times as large, turned like orientation 6; written by pillow-heif."""
    data = Path(__file__).with_name("turned.heic").read_bytes()
    photo = decode(data, None, LIMIT)
    assert_pixels(photo, 64, 128)
    assert (photo.format, photo.width, photo.height) == ("HEIF", 128, 64)
    assert mean_difference(photo.pixels, quarters().repeat(4, 0).repeat(4, 1)) < 2
    assert_pixels(decode(data, (32, 32), LIMIT), 32, 32)
    assert refused(data, limit=128 * 64 - 1).error_class == "resource"
    for part in (len(data) // 2, len(data) - 40):
        assert refused(data[:part]).error_class == "input"


def test_float_images_are_stretched_over_their_range() -> None:
    values = np.linspace(-3.0, 5.0, 48, dtype=np.float32).reshape(6, 8)
    photo = decode(saved(Image.fromarray(values), "TIFF"), None, LIMIT)
    assert difference(photo.pixels[:, :, 0], (values + 3.0) / 8.0 * 255.0) <= 0.51


def test_a_float_image_of_one_value_is_read() -> None:
    flat = Image.fromarray(np.full((6, 8), 0.5, np.float32))
    assert_pixels(decode(saved(flat, "TIFF"), None, LIMIT), 6, 8)


@pytest.mark.parametrize("value", [0x0000, 0x12FF, 0x8000, 0xABCD, 0xFFFF])
def test_of_16_bits_the_upper_half_is_kept(value: int) -> None:
    grey = raw_png(1, 1, b"\0" + struct.pack(">H", value), depth=16, colour=0)
    rgb = raw_png(1, 1, b"\0" + struct.pack(">HHH", value, 0, 0xFFFF), depth=16, colour=2)
    assert difference(decode(grey, None, LIMIT).pixels, value >> 8) <= 1
    assert difference(decode(rgb, None, LIMIT).pixels, (value >> 8, 0, 255)) <= 1


def transparent(mode: str) -> tuple[Image.Image, dict[str, Any]]:
    """An orange (or grey) image that cannot be seen, and how to save it as PNG."""
    if mode == "P":
        image = Image.new("P", (8, 6), 1)
        image.putpalette([0, 0, 0, *ORANGE])
        return image, {"transparency": 1}
    if mode == "RGB":
        return Image.new("RGB", (8, 6), ORANGE), {"transparency": ORANGE}
    if mode == "L":
        return Image.new("L", (8, 6), 90), {"transparency": 90}
    if mode == "1":
        return Image.new("1", (8, 6), 0), {"transparency": 0}
    return Image.new("RGBA", (8, 6), (*ORANGE, 0)).convert(mode), {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1"])
def test_what_is_transparent_lies_on_white(mode: str) -> None:
    image, options = transparent(mode)
    photo = decode(saved(image, "PNG", **options), None, LIMIT)
    assert difference(photo.pixels, WHITE) == 0


@pytest.mark.parametrize("image_format", ["WEBP", "TIFF", "TGA"])
def test_alpha_of_other_formats_lies_on_white(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = saved(transparent("RGBA")[0], image_format, **options)
    assert difference(decode(data, None, LIMIT).pixels, WHITE) == 0


def test_half_transparent_is_half_white() -> None:
    data = saved(Image.new("RGBA", (8, 6), (*ORANGE, 128)), "PNG")
    half = [(value + 255) / 2 for value in ORANGE]
    assert difference(decode(data, None, LIMIT).pixels, half) <= 1


@pytest.mark.parametrize("name", ["swap", "Linear sRGB"])
def test_a_profile_other_than_srgb_is_applied(name: str) -> None:
    scene = Image.new("RGB", (8, 6), (220, 40, 30))
    plain = decode(saved(scene, "PNG"), None, LIMIT)
    photo = decode(saved(scene, "PNG", icc_profile=swapped_profile(name)), None, LIMIT)
    assert difference(plain.pixels, (220, 40, 30)) == 0
    assert difference(photo.pixels, (30, 40, 220)) <= 6


def test_a_profile_is_applied_when_scaled_too() -> None:
    data = saved(Image.new("RGB", (80, 60), (220, 40, 30)), "JPEG", icc_profile=swapped_profile())
    assert difference(decode(data, (16, 16), LIMIT).pixels, (30, 40, 220)) <= 8


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"this is no profile",
        swapped_profile()[:200],
    ],
    ids=["srgb", "garbage", "cut"],
)
def test_srgb_and_unusable_profiles_change_nothing(profile: bytes) -> None:
    data = saved(Image.new("RGB", (8, 6), ORANGE), "PNG", icc_profile=profile)
    assert difference(decode(data, None, LIMIT).pixels, ORANGE) == 0


def test_a_profile_for_another_mode_changes_nothing() -> None:
    data = saved(Image.new("L", (8, 6), 90), "PNG", icc_profile=swapped_profile())
    assert difference(decode(data, None, LIMIT).pixels, 90) == 0


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(image_format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in (ORANGE, (0, 0, 255), (0, 255, 0))]
    data = saved(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert difference(decode(data, None, LIMIT).pixels, ORANGE) <= 4


def test_the_main_picture_of_a_phones_multi_picture_file_is_taken() -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in (ORANGE, (0, 0, 255))]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    for size in (None, (32, 24)):
        assert difference(decode(data, size, LIMIT).pixels, ORANGE) <= 4


# Size


def test_native_keeps_every_pixel() -> None:
    pixels = picture(37, 23)
    photo = decode(encode(pixels, "png", 90), None, LIMIT)
    assert difference(photo.pixels, pixels) == 0


@pytest.mark.parametrize("size", [(64, 64), (96, 32), (31, 77), (1, 1), (400, 400)])
@pytest.mark.parametrize("shape", [(64, 64), (200, 50), (3, 150), (1, 1)])
def test_the_size_is_exactly_what_was_asked_for(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    for image_format in ("jpg", "png"):
        photo = decode(encode(picture(*shape), image_format, 90), size, LIMIT)
        assert_pixels(photo, size[1], size[0])
        assert (photo.width, photo.height) == shape


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_a_square_keeps_the_middle_of_a_wide_photo(image_format: str) -> None:
    photo = decode(encode(bands(), image_format, 95), (100, 100), LIMIT)
    middle = photo.pixels[:, 3:-3]
    assert difference(middle, (0, 250, 0)) <= 6


def test_a_square_keeps_the_middle_of_a_tall_photo() -> None:
    tall = np.ascontiguousarray(bands().transpose(1, 0, 2))
    photo = decode(encode(tall, "png", 95), (100, 100), LIMIT)
    assert difference(photo.pixels, (0, 250, 0)) == 0


def test_the_photo_is_scaled_to_cover_before_it_is_cropped() -> None:
    photo = decode(encode(bands(), "png", 95), (100, 50), LIMIT)
    expected = Image.fromarray(bands()[:, 50:250]).resize((100, 50), Image.Resampling.BICUBIC)
    assert mean_difference(photo.pixels, np.asarray(expected)) < 1


def test_small_photos_are_enlarged() -> None:
    photo = decode(encode(quarters(), "png", 95), (128, 64), LIMIT)
    large = np.asarray(Image.fromarray(quarters()).resize((128, 64), Image.Resampling.BICUBIC))
    assert mean_difference(photo.pixels, large) < 1


def test_quick_jpeg_decoding_gives_what_full_decoding_would() -> None:
    data = encode(picture(1024, 768, 5), "jpg", 95)
    full = Image.open(io.BytesIO(data)).crop((128, 0, 896, 768))
    slow = np.asarray(full.resize((128, 128), Image.Resampling.BICUBIC))
    assert mean_difference(decode(data, (128, 128), LIMIT).pixels, slow) < 3


@pytest.mark.parametrize(
    ("shape", "part"), [((1, 1), 1), ((7, 5), 1), ((64, 64), 2), ((336, 504), 4), ((496, 328), 8)]
)
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2, "progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_jpegs_have_the_pixels_that_pillow_gives_them(
    options: dict[str, Any],
    shape: tuple[int, int],
    part: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = saved(Image.fromarray(picture(*shape)), "JPEG", quality=90, **options)
    size = (shape[0] // part, shape[1] // part)
    theirs = Image.open(io.BytesIO(data))
    theirs.draft(None, size)
    assert theirs.size == size
    pixels = np.asarray(theirs)
    monkeypatch.setattr(JpegImageFile, "load", None)  # so ours are not Pillow's
    assert difference(decode(data, size, LIMIT).pixels, pixels) == 0


def test_what_the_quick_decoder_gives_up_pillow_does() -> None:
    whole = encode(picture(64, 48), "jpg", 90)
    unfinished = whole[:-2] + b"\xff\xd0"  # another mark where the end should be
    with pytest.raises(ValueError, match=r"."):
        simplejpeg.decode_jpeg(unfinished)
    photo = decode(unfinished, None, LIMIT)
    assert difference(photo.pixels, decode(whole, None, LIMIT).pixels) == 0


def test_a_large_jpeg_is_decoded_into_a_file_and_encoded_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(picture(300, 200), "jpg", 90)
    in_memory = decode(data, None, LIMIT).pixels
    monkeypatch.setattr("pipeline.room.IN_MEMORY", 1000)
    in_file = decode(data, None, LIMIT).pixels
    assert isinstance(in_file, np.memmap)
    assert difference(in_file, in_memory) == 0
    assert encode(in_file, "jpg", 90) == encode(in_memory, "jpg", 90)


# Limits


def test_as_many_pixels_as_allowed_are_read_and_one_more_is_not() -> None:
    assert decode(jpeg(20, 10), None, 200).width == 20
    error = refused(jpeg(20, 10), limit=199)
    assert error.error_class == "resource"
    assert "20x10" in error.message
    assert "199" in error.message
    assert "--max-pixels" in error.message


@pytest.mark.parametrize("size", [None, (64, 64)])
def test_a_decompression_bomb_is_refused_from_its_header(size: tuple[int, int] | None) -> None:
    bomb = raw_png(50_000, 50_000, b"\0" * 1000)
    start = time.monotonic()
    error = refused(bomb, size, 100_000_000)
    assert time.monotonic() - start < 1
    # Decoding it would have found that there is hardly any data.
    assert error.error_class == "resource"


def test_what_memory_cannot_hold_is_a_matter_of_resources() -> None:
    error = refused(raw_png(600_000_000, 1, b"\0" * 1000), limit=10**10)
    assert (error.error_class, error.message) == ("resource", "no memory for 600000000x1")


def test_an_icons_inner_picture_is_not_decoded_before_the_limit_is_checked() -> None:
    error = refused(icon_of(raw_png(50_000, 50_000, b"\0" * 1000)), (64, 64))
    assert "truncated" not in error.message


def test_a_small_picture_with_a_bomb_in_its_text_is_refused() -> None:
    text = b"comment\0\0" + zlib.compress(b"x" * 50_000_000)
    error = refused(raw_png(1, 1, b"\0\0\0\0", extra=chunk(b"zTXt", text)))
    assert error.error_class == "input"


# Bad files


def test_an_empty_file_is_called_empty() -> None:
    error = refused(b"")
    assert (error.error_class, error.message) == ("input", "the file is empty")


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>404</html>", b"\n  <?xml version='1.0'?><Error/>"]
)
def test_a_web_page_is_called_a_web_page(page: bytes) -> None:
    error = refused(page)
    assert error.error_class == "input"
    assert "web page" in error.message


@pytest.mark.parametrize(
    "data",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b'{"error": "not found"}',
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        bytes(1000),
        np.random.default_rng(0).bytes(5000),
    ],
    ids=["text", "json", "pdf", "eps", "zeros", "random"],
)
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    error = refused(data)
    assert error.error_class == "input"
    assert "not an image" in error.message


@pytest.mark.parametrize("size", [None, (16, 16)])
@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_called_damaged(
    image_format: str, kept: float, size: tuple[int, int] | None
) -> None:
    data = encode(picture(64, 64), image_format, 90)
    error = refused(data[: int(len(data) * kept)], size)
    assert error.error_class == "input"
    assert error.message.startswith("damaged: ")


def test_nothing_but_row_errors_comes_of_damaged_files() -> None:
    rng = np.random.default_rng(7)
    image = Image.fromarray(picture(40, 32))
    formats = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "PPM", "TGA", "ICO", "PCX")
    said: list[str] = []
    read = 0
    for data in (saved(image, image_format) for image_format in formats):
        for trial in range(60):
            damaged = np.frombuffer(data, np.uint8).copy()
            where = rng.integers(0, min(len(damaged), 200) if trial % 2 else len(damaged), 4)
            damaged[where] = rng.integers(0, 256, 4)
            try:
                pixels = decode(damaged.tobytes(), (16, 16) if trial % 3 else None, 100_000).pixels
            except RowError as error:
                said.append(error.message)
            else:
                read += 1
                assert pixels.dtype == np.uint8
                assert min(pixels.shape) > 0
    assert min(len(said), read) > 50
    assert all(said)
    assert not any("object at 0x" in message or "\n" in message for message in said)


# Encoding


@pytest.mark.parametrize(
    ("image_format", "kind"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")]
)
def test_the_same_pixels_give_the_same_file(image_format: str, kind: str) -> None:
    first = encode(picture(50, 40), image_format, 80)
    assert first == encode(picture(50, 40), image_format, 80)
    assert first != encode(picture(50, 40, seed=1), image_format, 80)
    assert Image.open(io.BytesIO(first)).format == kind
    assert Image.open(io.BytesIO(first)).size == (50, 40)


@pytest.mark.parametrize("quality", [50, 92, 93, 95, 96, 100])
def test_jpegs_are_as_good_as_pillows(quality: int) -> None:
    pixels = decode(SAMPLE.read_bytes(), (256, 256), LIMIT).pixels
    theirs = saved(Image.fromarray(pixels), "JPEG", quality=quality)
    ours = encode(pixels, "jpg", quality)
    errors = [
        np.square(decode(data, None, LIMIT).pixels.astype(float) - pixels).mean()
        for data in (ours, theirs)
    ]
    assert 10 * np.log10(errors[0] / errors[1]) < 0.3
    assert len(ours) < 1.02 * len(theirs)


def test_png_loses_nothing() -> None:
    pixels = picture(51, 33)
    assert difference(decode(encode(pixels, "png", 1), None, LIMIT).pixels, pixels) == 0


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_higher_quality_is_nearer_and_larger(image_format: str) -> None:
    pixels = picture(64, 64)
    low, high = (encode(pixels, image_format, quality) for quality in (20, 95))
    far, near = (mean_difference(decode(d, None, LIMIT).pixels, pixels) for d in (low, high))
    assert len(low) < len(high)
    assert near < far
    assert near < 12


@pytest.mark.parametrize(("image_format", "side"), [("webp", 16_384), ("jpg", 65_501)])
def test_a_side_the_format_cannot_hold_is_a_matter_of_resources(
    image_format: str, side: int
) -> None:
    with pytest.raises(RowError) as caught:
        encode(np.zeros((1, side, 3), np.uint8), image_format, 90)
    assert caught.value.error_class == "resource"
    assert f"{side}x1" in caught.value.message
    assert image_format in caught.value.message


def test_png_holds_any_side() -> None:
    assert len(encode(np.zeros((1, 70_000, 3), np.uint8), "png", 90)) > 0


def test_a_result_that_memory_cannot_hold_is_a_matter_of_resources() -> None:
    endless = np.broadcast_to(np.uint8(0), (10**8, 10**8, 3))
    with pytest.raises(RowError, match="no memory to encode 100000000x100000000") as caught:
        encode(endless, "jpg", 90)
    assert caught.value.error_class == "resource"
