"""Bytes to pixels and back: limits, orientation, colour, formats."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from pipeline.errors import RowError
from pipeline.room import room

Pixels = NDArray[np.uint8]

# What is decoded, besides HEIF. Not all that Pillow knows: some of its formats start other
# programs, or decode before the image's size can be looked at (ICO).
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "PPM",
           "TGA", "PCX")  # fmt: skip

# Rows that are taken out of an image of Pillow's at a time.
BAND = 1024

# Qualities of JPEG at which simplejpeg's quick cosine transform shows: at 95 by .4 dB, the median
# of 13 photos, up to 1.7. At 92 it is .12, below that less, and from 96 on it takes the exact one.
SHOWS_IN_JPEG = range(93, 96)

EXIF_ORIENTATION = 0x0112
# What undoes each orientation, Exif 2.32, 4.6.4 A.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# decode() has a limit of its own, with a message of its own.
Image.MAX_IMAGE_PIXELS = None
# Colour profiles of printers have megabytes, which Pillow counts among the texts.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024 * 1024
warnings.filterwarnings("ignore", module="PIL")


@dataclass(frozen=True)
class Photo:
    """A decoded image.

    Args:
        pixels: (H, W, 3) uint8, sRGB, upright, contiguous.
        format: of the file, as Pillow calls it (JPEG, PNG, ...).
        width, height: of the file's image as it is meant to be seen, before any scaling.
    """

    pixels: Pixels
    format: str
    width: int
    height: int


def decode(data: bytes, size: tuple[int, int] | None, max_pixels: int) -> Photo:
    """The image in ``data``; of an animation, its first frame.

    Args:
        size: (width, height) to scale to: covered, centre kept; None keeps the image's own.
        max_pixels: limit for the image in the file.

    Raises:
        RowError: it is not an image, is damaged, or has too many pixels.
    """
    if not data:
        raise RowError("input", "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(data))
    except UnidentifiedImageError:
        is_page = data.lstrip()[:1] == b"<"
        what = "not an image but a web page" if is_page else "not an image that restyle can read"
        raise RowError("input", what) from None
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise RowError("input", f"damaged: {_short(error)}") from error
    if image.width * image.height > max_pixels:
        raise RowError(
            "resource",
            f"{image.width}x{image.height} is more than {max_pixels} pixels (--max-pixels)",
        )
    try:
        return _decode(data, image, size)
    except RowError:
        raise
    except MemoryError as error:
        raise RowError("resource", f"no memory for {image.width}x{image.height}") from error
    except Exception as error:
        raise RowError("input", f"damaged: {_short(error)}") from error


def _formats(data: bytes) -> tuple[str, ...]:
    """What the file may be."""
    if data[4:8] != b"ftyp":
        return FORMATS
    _learn_heif()
    return (*FORMATS, "HEIF")


@lru_cache(maxsize=1)
def _learn_heif() -> None:
    """Tell Pillow of what phones make; not before there is one, as that takes a while."""
    import pi_heif

    pi_heif.register_heif_opener(decode_threads=1)


def _decode(data: bytes, image: Image.Image, size: tuple[int, int] | None) -> Photo:
    file_format = image.format or ""
    # Pillow turns TIFFs upright by itself.
    orientation = 1 if file_format == "TIFF" else _orientation(image)
    width, height = image.size
    if orientation >= 5:
        width, height = height, width
        size = size and (size[1], size[0])
    if size:
        # A JPEG is decoded at 1/2, 1/4 or 1/8, which is most of the time saved.
        image.draft(None, _covering(image.size, size))
    if file_format == "JPEG" and size in (None, image.size) and orientation == 1:
        pixels = _jpeg_pixels(data, image.size) if is_srgb(image) else None
        if pixels is not None:
            return Photo(pixels, file_format, width, height)
    image.load()
    image = to_srgb(image)
    if size and size != image.size:
        box = _centre(image.size, size)
        image = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    if orientation != 1:
        image = image.transpose(UPRIGHT[orientation])
    return Photo(_pixels(image), file_format, width, height)


def _jpeg_pixels(data: bytes, size: tuple[int, int]) -> Pixels | None:
    """The same pixels as Pillow's in two thirds of the time, and less memory.

    Args:
        size: (width, height): the image's, or 1/2, 1/4 or 1/8 of it.

    Returns:
        None: Pillow may know what to do with it, or what to say.
    """
    width, height = size
    pixels = room((height, width, 3))
    try:
        found = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, buffer=pixels)
    except (ValueError, RuntimeError):
        return None
    return pixels if found.shape == pixels.shape else None


def _pixels(image: Image.Image) -> Pixels:
    """The pixels of an RGB image; a tall one in bands, as Pillow makes a copy on the way."""
    if image.height <= BAND:
        return np.array(image)
    pixels = room((image.height, image.width, 3))
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # an unreadable tag is no orientation
        return 1
    return orientation if orientation in UPRIGHT else 1


def _covering(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of the shape of ``have`` that covers ``want``."""
    scale = max(want[0] / have[0], want[1] / have[1])
    return max(1, round(have[0] * scale)), max(1, round(have[1] * scale))


def _centre(have: tuple[int, int], want: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box of the shape of ``want`` in the middle of ``have``."""
    scale = min(have[0] / want[0], have[1] / want[1])
    width, height = want[0] * scale, want[1] * scale
    left, top = (have[0] - width) / 2, (have[1] - height) / 2
    return left, top, left + width, top + height


def is_srgb(image: Image.Image) -> bool:
    """Whether there is nothing that ``to_srgb`` would have to do."""
    if image.mode != "RGB" or "transparency" in image.info:
        return False
    profile = image.info.get("icc_profile")
    return not profile or _to_srgb_transform(profile, image.mode) is None


def to_srgb(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB and the sRGB colour space, laid on white where it is transparent."""
    if is_srgb(image):
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image).convert("RGB")
    if image.mode in ("P", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("RGBA", "LA"):
        image = _on_white(image)
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_srgb()) or image
    transform = _to_srgb_transform(profile, image.mode) if profile else None
    if transform is not None:
        # In place where that is possible: a large image need not be in memory twice.
        return ImageCms.applyTransform(image, transform, inPlace=image.mode == "RGB") or image
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new(image.mode, image.size, (255, 255, 255, 255)[: len(image.mode)])
    flat = Image.alpha_composite(white.convert("RGBA"), image.convert("RGBA")).convert("RGB")
    flat.info = image.info
    return flat


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """More than 8 bits of grey to 8: 16 bits to the nearest, others by their range."""
    values = np.asarray(image)
    if image.mode != "F" and values.min() >= 0 and values.max() <= 65535:
        return Image.fromarray(_upper_half()[values])
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    grey = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    with np.errstate(over="ignore"):
        grey -= low
        grey *= 255.0 / max(high - low, 1e-12)
    return Image.fromarray(np.rint(np.clip(grey, 0.0, 255.0, out=grey)).astype(np.uint8))


@lru_cache(maxsize=1)
def _upper_half() -> Pixels:
    """What each number of 16 bits is in 8."""
    return np.rint(np.arange(65536) / 257.0).astype(np.uint8)


@lru_cache(maxsize=32)
def _to_srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where the profile is sRGB already, or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        description = ImageCms.getProfileDescription(source).lower()
        if "srgb" in description and "linear" not in description:
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def encode(pixels: Pixels, image_format: str, quality: int) -> bytes:
    """A file from pixels; the same pixels give the same bytes.

    Args:
        pixels: (H, W, 3) uint8, sRGB.
        image_format: jpg, png or webp. quality: 1 to 100, of jpg and webp.

    Raises:
        RowError: the format, or memory, cannot hold an image of this size.
    """
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    try:
        if image_format == "jpg" and quality not in SHOWS_IN_JPEG:
            # Two thirds of Pillow's time, and a large image is not copied.
            pixels = np.ascontiguousarray(pixels)
            return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", "420"))
        buffer = io.BytesIO()
        image = Image.fromarray(pixels)
        if image_format == "jpg":
            image.save(buffer, "JPEG", quality=quality)
        elif image_format == "png":
            image.save(buffer, "PNG", compress_level=3)
        else:
            image.save(buffer, "WEBP", quality=quality, method=2)
        return buffer.getvalue()
    except (MemoryError, RuntimeError) as error:
        raise RowError("resource", f"no memory to encode {size}") from error
    except (OSError, ValueError) as error:
        raise RowError("resource", f"{image_format} cannot hold {size}: {_short(error)}") from error


def _short(error: Exception) -> str:
    # Without counts, so that reasons can be counted.
    text = re.sub(r" \(\d+ bytes not processed\)", "", " ".join(str(error).split()))
    return text[:200] or type(error).__name__
