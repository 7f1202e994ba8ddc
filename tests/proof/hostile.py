"""A corpus of images that nobody would want in a job, and what becomes of each.

python -m tests.proof.hostile            # as JSON lines: how each ended, seconds, megabytes
python -m tests.proof.hostile FOLDER     # writes the files there instead
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from tests.processes import memory

SIDE = 96


@cache
def corpus() -> dict[str, bytes]:
    """The files, name to content."""
    made: dict[str, bytes] = {}
    for part in (truncated(), not_images(), bombs(), shapes(), modes(), tags(), wrong_names()):
        for name, data in part:
            assert name not in made, name
            made[name] = data
    return made


def picture(mode: str = "RGB", side: int = SIDE) -> Image.Image:
    """Something with shapes and noise in it."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:side, :side]
    layers = [rows * 2, columns * 2, (rows + columns) + rng.integers(0, 60, (side, side))]
    return Image.fromarray(np.stack(layers, axis=2).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def truncated() -> Iterator[tuple[str, bytes]]:
    """Files that were cut off at every kind of place."""
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF",
             "bmp": "BMP", "jp2": "JPEG2000", "avif": "AVIF"}  # fmt: skip
    for suffix, image_format in kinds.items():
        whole = saved(picture(), image_format)
        cuts = {1, 2, 4, 10, 20, 50, *(len(whole) * n // 12 for n in range(1, 12)), len(whole) - 1}
        for cut in sorted(cuts):
            yield f"cut at {cut}.{suffix}", whole[:cut]
    progressive = saved(picture(), "JPEG", progressive=True)
    for share in (30, 60, 90):
        yield f"progressive cut at {share}.jpg", progressive[: len(progressive) * share // 100]
    yield "end of image missing.jpg", saved(picture(), "JPEG")[:-2]
    yield "garbage after the end.jpg", saved(picture(), "JPEG") + b"\xff" * 1000
    yield "garbage before the start.jpg", b"\0" * 100 + saved(picture(), "JPEG")


def not_images() -> Iterator[tuple[str, bytes]]:
    """Files that are something else."""
    yield "empty.jpg", b""
    yield "zeros.jpg", bytes(10_000)
    yield "noise.jpg", np.random.default_rng(2).bytes(10_000)
    yield "page.jpg", b"<!DOCTYPE html><html><body>403 Forbidden</body></html>"
    yield "error.png", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
    yield "answer.jpg", b'{"error": "not found"}'
    yield "drawing.svg.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    yield "archive.jpg", b"PK\x03\x04" + bytes(1000)
    yield "document.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n"
    yield "program.jpg", b"\x7fELF" + bytes(1000)
    # Pillow would start another program for this one.
    yield (
        "script.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    )
    yield "icon.jpg", saved(picture(), "ICO")


def png(width: int, height: int, body: bytes, *chunks: tuple[bytes, bytes], grey: int = 1) -> bytes:
    """A PNG file of ``body``, compressed pixels of ``grey`` bits."""
    header = struct.pack(">IIBBBBB", width, height, grey, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def compressed_zeros(count: int) -> bytes:
    """That many zeros, a thousand times smaller."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(1 << 20, count - at))) for at in range(0, count, 1 << 20)]
    return b"".join(parts) + packer.flush()


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that are large, or say that they are."""
    yield "bomb.png", png(20_000, 20_000, compressed_zeros(20_000 * 2501))
    yield "just allowed.png", png(9_999, 9_999, compressed_zeros(9_999 * 1251))
    yield "says it is large.png", png(2**31 - 1, 2**31 - 1, zlib.compress(b"\0"))
    yield "deep bomb.png", png(9_999, 9_999, compressed_zeros(9_999 * 19_999), grey=16)
    text = b"Comment\0\0" + compressed_zeros(50_000_000)
    yield "bomb in a text.png", png(9, 9, zlib.compress(bytes(27)), (b"zTXt", text))
    profile = b"ICC\0\0" + compressed_zeros(50_000_000)
    yield "bomb in a profile.png", png(9, 9, zlib.compress(bytes(27)), (b"iCCP", profile))
    texts = [(b"tEXt", b"key%d\0value" % n) for n in range(50_000)]
    yield "fifty thousand texts.png", png(9, 9, zlib.compress(bytes(27)), *texts)
    gif = bytearray(saved(picture("P"), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield "says it is large.gif", bytes(gif)
    frame = bytearray(gif)
    at = frame.index(b"\x2c", 13 + 3 * 256)
    frame[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)
    yield "frame says it is large.gif", bytes(frame)
    yield "bomb.webp", saved(Image.new("RGB", (16383, 8000)), "WEBP", quality=1, method=0)
    for name, tag, value in (("wide", 256, 2**31 - 1), ("high", 257, 2**31 - 1)):
        yield f"says it is {name}.tif", tiff_with(tag, value)
    yield "many samples a pixel.tif", tiff_with(277, 60_000)
    yield "bomb.tif", saved(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4")
    yield "bomb.jp2", jpeg2000_with_size(2**31 - 1)
    yield "ten thousand scans.jpg", many_scans(10_000)


def tiff_with(tag: int, value: int) -> bytes:
    """A TIFF one of whose entries is another than it was."""
    data = bytearray(saved(picture(), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * entry
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HII", data, at + 2, 4, 1, value)
            return bytes(data)
    raise AssertionError(f"no tag {tag}")


def jpeg2000_with_size(side: int) -> bytes:
    """A JPEG 2000 that says it is larger than it is, in both of its headers."""
    data = bytearray(saved(picture(), "JPEG2000"))
    at = data.index(b"ihdr") + 4
    struct.pack_into(">II", data, at, side, side)
    siz = data.index(b"\xff\x51") + 6
    struct.pack_into(">II", data, siz, side, side)
    return bytes(data)


def many_scans(count: int, side: int = SIDE) -> bytes:
    """A small progressive JPEG that takes long: its last scan comes again and again."""
    data = saved(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def shapes() -> Iterator[tuple[str, bytes]]:
    """Sides as no photo has them."""
    for width, height in ((1, 1), (2, 1), (1, 2), (65_500, 1), (1, 65_500), (3, 20_000)):
        for suffix, image_format in (("jpg", "JPEG"), ("png", "PNG")):
            yield (
                f"{width}x{height}.{suffix}",
                saved(Image.new("RGB", (width, height), (200, 90, 40)), image_format),
            )
    yield "65535x1.png", saved(Image.new("L", (65_535, 1)), "PNG")
    yield "1x65535.tif", saved(Image.new("L", (1, 65_535)), "TIFF")
    yield "1x1.gif", saved(Image.new("P", (1, 1)), "GIF")
    yield "1x16383.webp", saved(Image.new("RGB", (1, 16_383)), "WEBP")
    zero = bytearray(saved(picture(), "PNG"))
    zero[16:24] = bytes(8)
    yield "0x0.png", bytes(zero)
    flat = bytearray(saved(picture(), "JPEG"))
    at = flat.index(b"\xff\xc0") + 5
    flat[at : at + 4] = bytes(4)
    yield "0x0.jpg", bytes(flat)


def modes() -> Iterator[tuple[str, bytes]]:
    """Colours as few photos have them."""
    for mode in ("1", "L", "CMYK", "YCbCr", "RGB"):
        yield f"{mode}.jpg", saved(picture(mode), "JPEG")
    yield "YCCK.jpg", ycck()
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = picture("L").convert("I;16") if mode == "I;16" else picture(mode)
        yield f"{mode.replace(';', ' ')}.png", saved(image, "PNG")
    for mode in ("1", "L", "LAB", "CMYK", "F", "I", "RGBA", "YCbCr"):
        image = (
            ImageCms.profileToProfile(
                picture(),
                ImageCms.createProfile("sRGB"),
                ImageCms.createProfile("LAB"),
                outputMode="LAB",
            )
            if mode == "LAB"
            else picture("L").convert(mode)
            if mode in "FI"
            else picture(mode)
        )
        assert image is not None
        yield f"{mode}.tif", saved(image, "TIFF")
    values = np.full((SIDE, SIDE), np.nan, np.float32)
    yield "not a number.tif", saved(Image.fromarray(values), "TIFF")
    values[:] = np.inf
    values[0] = -np.inf
    yield "without end.tif", saved(Image.fromarray(values), "TIFF")
    palette = picture("P")
    yield "palette and alpha.png", saved(palette, "PNG", transparency=bytes(range(256)))
    short = Image.new("P", (SIDE, SIDE), 255)
    short.putpalette([1, 2, 3])
    yield "index beyond the palette.png", saved(short, "PNG")
    frames = [picture().rotate(10 * n) for n in range(4)]
    for suffix, image_format in (("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")):
        yield (
            f"animated.{suffix}",
            saved(frames[0], image_format, save_all=True, append_images=frames[1:]),
        )


def ycck() -> bytes:
    """A CMYK JPEG that says that its colours are YCCK."""
    data = bytearray(saved(picture("CMYK"), "JPEG"))
    at = data.index(b"Adobe") + 11
    data[at] = 2
    return bytes(data)


def tags() -> Iterator[tuple[str, bytes]]:
    """What stands beside the pixels."""
    for orientation in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation {orientation}.jpg", saved(picture(), "JPEG", exif=exif)
    words = b"MM\0\x2a\0\0\0\x08" + struct.pack(">HHHI4sI", 1, 0x0112, 2, 4, b"left", 0)
    yield "orientation in words.jpg", with_segment(0xE1, b"Exif\0\0" + words)
    # An IFD whose sub-IFD and whose next IFD are itself.
    loop = b"MM\0\x2a\0\0\0\x08" + struct.pack(">H", 1) + struct.pack(">HHII", 0x8769, 4, 1, 8)
    loop += struct.pack(">I", 8)
    yield "exif that loops.jpg", with_segment(0xE1, b"Exif\0\0" + loop)
    far = b"MM\0\x2a\x7f\xff\xff\xff" + bytes(20)
    yield "exif that points away.jpg", with_segment(0xE1, b"Exif\0\0" + far)
    many = b"MM\0\x2a\0\0\0\x08\xff\xff" + bytes(60_000)
    yield "exif of 65535 entries.jpg", with_segment(0xE1, b"Exif\0\0" + many)
    yield "not exif.jpg", with_segment(0xE1, b"Exif\0\0" + b"?" * 60_000)
    yield "comments.jpg", with_segment(0xFE, b"c" * 65_000, times=500)
    yield "profile of nothing.jpg", saved(picture(), "JPEG", icc_profile=bytes(200_000))
    huge = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(8_000_000)
    yield "profile of eight megabytes.png", saved(picture(), "PNG", icc_profile=huge)
    looped = bytearray(saved(picture(), "TIFF"))
    start = struct.unpack_from("<I", looped, 4)[0]
    entries = struct.unpack_from("<H", looped, start)[0]
    struct.pack_into("<I", looped, start + 2 + 12 * entries, start)
    yield "next page is this one.tif", bytes(looped)
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 900_000)
    yield "a long text.png", saved(picture(), "PNG", pnginfo=info)


def with_segment(marker: int, data: bytes, times: int = 1) -> bytes:
    """A JPEG with a segment of ours after its start."""
    whole = saved(picture(), "JPEG")
    segment = struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
    return whole[:2] + segment * times + whole[2:]


def wrong_names() -> Iterator[tuple[str, bytes]]:
    """Names that are wrong, or that programs stumble over."""
    good = saved(picture(), "JPEG")
    yield "jpeg.png", good
    yield "png.jpg", saved(picture(), "PNG")
    yield "webp.gif", saved(picture(), "WEBP")
    for name in (
        "new\nline",
        "tab\there",
        'it\'s "quoted"',
        "<b>bold",
        "=1+1",
        "😀 ü ß 漢字",
        "-rf",
        "%2e%2e%2fup",
        "dots..dots",
        "back\\slash",
        "$(reboot)",
        "{a,b}",
        "a*b?[c]",
        " space ",
        "e\u0301 combined",
        "\u202egpj.exe",
        "x" * 240,
        "CON",
        "~",
        "#?&",
    ):
        yield f"{name}.jpg", good  # fmt: skip


def outcome(data: bytes) -> str:
    """What the codec makes of a file: done, or why not."""
    from pipeline.codec import decode, encode
    from pipeline.errors import RowError

    try:
        for size in (None, (256, 256)):
            pixels = decode(data, size, 100_000_000).pixels
            if size:
                assert pixels.shape == (256, 256, 3)
        encode(pixels, "jpg", 92)
    except RowError as error:
        return f"failed ({error.error_class}): {error.message}"
    return "done"


def measured(data: bytes) -> tuple[str, float, float]:
    """The outcome, seconds and peak megabytes, of a process that does nothing else."""
    read, write = os.pipe()
    start = time.perf_counter()
    if not (child := os.fork()):
        before = peak()
        with open(write, "w") as pipe:
            json.dump([outcome(data), peak() - before], pipe)
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    how, megabytes = json.loads(said) if said else (f"the process died: {status}", 0.0)
    return how, time.perf_counter() - start, megabytes


def peak() -> float:
    """The most memory that this process has had, megabytes."""
    return memory("VmHWM") / 1024


def main() -> None:
    """Write the corpus down, or try each file of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where to write the files")
    folder = parser.parse_args().folder
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in corpus().items():
            (folder / name).write_bytes(data)
        return
    import pipeline.codec  # noqa: F401 - before the first fork

    for name, data in corpus().items():
        how, seconds, megabytes = measured(data)
        figures = {"seconds": round(seconds, 3), "megabytes": round(megabytes, 1)}
        print(json.dumps({"name": name, "bytes": len(data), "outcome": how, **figures}))


if __name__ == "__main__":
    main()
