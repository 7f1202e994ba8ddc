"""What nobody would think of: ids, manifests, addresses and image files drawn by lot."""

from __future__ import annotations

import io
import os
import string
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.codec import decode
from pipeline.errors import RequestError, RowError
from pipeline.ledger import recorded_uris
from pipeline.manifest import open_manifest
from pipeline.manifest.rows import rows_of
from pipeline.plan import output_names
from pipeline.storage import Storage
from pipeline.url import check_name, describe, redact, redact_url
from tests.conftest import picture

OUT = "/out/images"
MAX_PIXELS = 1_000_000

# The same every time: a test must not fail on Tuesdays only.
fuzz = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NASTY = st.sampled_from(
    ["..", ".", "/", "\\", "//", "%2e", "%2F", "\0", "\n", "C:", "~", "*", "🎨", "é", "e\u0301",
     ".jpg", "a" * 300, "con", "$HOME", "'", '"', "::", "tar://", "s3://"]
)  # fmt: skip
IDS = st.lists(st.one_of(NASTY, st.text(max_size=5)), min_size=1, max_size=6).map("".join)

ADDRESS = st.sampled_from(
    ["http", "https", "HTTPS", "s3", "abfs", "tar", "://", "::", "/", "?", "@", ":", "#", "me:pw@",
     "?sig=1", " ", "\u00a0", "\n", "'", '"', "\0", "host", ".jpg", "AKIAIOSFODNN7EXAMPLE", "ASIA"]
)  # fmt: skip
ADDRESSES = st.lists(st.one_of(ADDRESS, st.text(max_size=3)), max_size=12).map("".join)

SECRET = st.text(string.ascii_letters + string.digits, min_size=8, max_size=20)


def rows(*ids: str) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pydict({"uri": ["x.jpg"] * len(ids), "id": list(ids)})
    return rows_of(batch, pa.schema([]), "/photos", "m.csv", 1)


@fuzz
@given(row_id=IDS, variant=st.integers(0, 3), image_format=st.sampled_from(["jpg", "png", "webp"]))
def test_no_id_leads_out_of_the_folder_of_results(
    row_id: str, variant: int, image_format: str
) -> None:
    try:
        ids = rows(row_id).column("id")
        (name,) = output_names(ids, pa.array([variant], pa.int32()), image_format).to_pylist()
        check_name(name, OUT)
    except (RequestError, RowError, UnicodeEncodeError):
        return
    for way in (name, unquote(name), name.replace("\\", "/")):
        path = os.path.normpath(os.path.join(OUT, way.lstrip("/") if way != name else way))
        assert path.startswith(OUT + "/")
    assert "\0" not in name


@fuzz
@given(one=IDS, other=IDS, image_format=st.sampled_from(["jpg", "png"]))
def test_two_ids_never_have_one_result_unnoticed(one: str, other: str, image_format: str) -> None:
    assume(one != other)
    try:
        ids = rows(one, other).column("id")
    except (RequestError, UnicodeEncodeError):
        return
    names = output_names(ids, pa.array([0, 0], pa.int32()), image_format).to_pylist()
    if len(set(names)) == 1:  # which the plan refuses
        assert {one, other} & {names[0].removesuffix(f".{image_format}")}


@fuzz
@example(data=b"\x80\n", suffix=".csv")
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: ("uri,id\n" + text).encode(errors="replace")),
        st.text(max_size=200).map(lambda text: ('{"uri": "' + text).encode(errors="replace")),
    ),
    suffix=st.sampled_from([".csv", ".jsonl", ".txt", ".parquet"]),
)
def test_any_manifest_is_read_or_refused(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(data)
    with suppress(RequestError):
        for batch in open_manifest(Storage(), str(path)).read():
            assert batch.column("id").null_count == 0


def files() -> list[bytes]:
    """A photo in every format and mode that its mutations may break in a way of their own."""
    photo = Image.fromarray(picture(48, 40))
    found = []
    for image_format, options in [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}),
        ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"}),
    ]:  # fmt: skip
        file = io.BytesIO()
        photo.save(file, image_format, **options)
        found.append(file.getvalue())
    return [*found, Path(__file__).with_name("turned.heic").read_bytes()]


FILES = files()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
@settings(fuzz, max_examples=500)
@given(
    data=st.sampled_from(FILES),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4
    ),
    # Most of what can be broken is in the beginning.
    near=st.booleans(),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_broken_file_is_decoded_or_refused(
    data: bytes, changes: list[tuple[float, bytes]], near: bool, kept: float
) -> None:
    broken = bytearray(data[: round(kept * len(data))])
    for place, new in changes:
        start = int(place * (min(len(broken), 200) if near else len(broken)))
        broken[start : start + len(new)] = new
    with suppress(RowError):
        photo = decode(bytes(broken), None, MAX_PIXELS)
        height, width = photo.pixels.shape[:2]
        assert photo.pixels.shape == (height, width, 3)
        assert 0 < height * width <= MAX_PIXELS


@fuzz
@given(secret=SECRET, scheme=st.sampled_from(["https", "s3", "http"]), before=st.text(max_size=10))
def test_no_secret_of_an_address_is_told(secret: str, scheme: str, before: str) -> None:
    assume(secret not in before)
    assert secret not in redact_url(f"https://me:{secret}@host/{before}?X-Amz-Signature={secret}")
    address = f"{scheme}://me:{secret}@host/photo.jpg"
    signed = f"https://host/photo.jpg?X-Amz-Signature={secret}"
    for text in (address, signed, f"{before} {address}: 403", f"{before} '{signed}' {address}"):
        assert secret not in redact(text)
        assert secret not in describe(OSError(text))


@fuzz
@example(urls=["https://host/my\u00a0photo.jpg?sig=1"])
@given(urls=st.lists(ADDRESSES, min_size=1, max_size=3))
def test_many_addresses_are_recorded_as_one_by_one(urls: list[str]) -> None:
    assert recorded_uris(pa.array(urls)).to_pylist() == [redact_url(url) for url in urls]
