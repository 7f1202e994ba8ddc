"""WebDataset tars: every image in them is a row, its companions are carried columns."""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import RequestError, RowError
from pipeline.job import PACKED_NAME
from pipeline.manifest.listings import has_image_suffix, is_glob
from pipeline.manifest.rows import ROW_SCHEMA, inside_ids
from pipeline.manifest.tables import BATCH_ROWS
from pipeline.storage import Source, Storage
from pipeline.url import describe, redact_url, tar_of

# Companions of an image that are carried through, as text; null where it has none.
COMPANIONS = ("cls", "txt", "json")
TAR_COLUMNS = pa.schema([pa.field(name, pa.string()) for name in COMPANIONS])

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Member(NamedTuple):
    """A file in a tar: its name, where its bytes lie, and its text if it is a companion."""

    name: str
    offset: int
    size: int
    text: str | None

    @property
    def key(self) -> str:
        """What the files of one sample share: the path up to the name's first dot."""
        folder, name = posixpath.split(self.name)
        return posixpath.join(folder, name.split(".", 1)[0])

    @property
    def extension(self) -> str:
        """What follows the key, without the dot."""
        return self.name[len(self.key) + 1 :].lower()


def is_tar(source: str) -> bool:
    """Whether ``source`` is a tar, or a range or glob of tars."""
    return source.lower().endswith(".tar")


def expand(storage: Storage, source: str) -> list[str]:
    """The tars that a path, a brace range (``{000..099}``) or a glob names, in order."""
    if match := RANGE.search(source):
        first, last = match.groups()
        return [
            tar
            for number in range(int(first), int(last) + 1)
            for tar in expand(storage, RANGE.sub(str(number).zfill(len(first)), source, count=1))
        ]
    if is_glob(source):
        fs, path = storage.open(source)
        return [str(fs.unstrip_protocol(name)).removeprefix("file://") for name in fs.glob(path)]
    return [source]


def tar_rows(storage: Storage, tars: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of all images in ``tars``; an id is the tar's name without suffix, then the member's.

    Of a tar of restyle's own without the digest, which is another when any of its samples changes.
    """
    schema = pa.schema([*ROW_SCHEMA, *TAR_COLUMNS])
    for tar in tars:
        stem = re.sub(f"^{PACKED_NAME}$", r"\1", posixpath.splitext(posixpath.basename(tar))[0])
        rows: list[dict[str, object]] = []
        for _, members in groupby(_members(storage, tar), key=lambda member: member.key):
            sample = list(members)
            companions = {name: _companion(sample, name) for name in COMPANIONS}
            for member in sample:
                if not has_image_suffix(member.name):
                    continue
                rows.append(
                    {
                        "id": f"{stem}/{member.name.removeprefix('./')}",
                        "source_uri": f"tar://{member.name}::{tar}",
                        "source_size": member.size,
                        "_source_offset": member.offset,
                        **companions,
                    }
                )
            if len(rows) >= BATCH_ROWS:
                yield _batch(rows, schema)
                rows = []
        if rows:
            yield _batch(rows, schema)


def tar_source(storage: Storage, uri: str) -> Source:
    """Where the bytes of ``tar://member::tar`` lie; looks through the tar for it.

    Raises:
        RequestError: the tar is not there. RowError: the member is not in it.
    """
    name = uri.removeprefix("tar://").rpartition("::")[0]
    for member in _members(storage, tar_of(uri)):
        if member.name == name:
            return Source(uri, member.offset, member.size)
    raise RowError("storage", f"{redact_url(uri)} does not exist")


def _batch(rows: list[dict[str, object]], schema: pa.Schema) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    index = batch.schema.names.index("id")
    return batch.set_column(index, batch.schema.field(index), inside_ids(batch.column(index)))


def _members(storage: Storage, tar: str) -> Iterator[Member]:
    fs, path = storage.open(tar)
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                is_companion = info.name.rsplit(".", 1)[-1].lower() in COMPANIONS
                if _is_hidden(info.name):
                    continue
                is_link = info.issym() or info.islnk()
                if is_link and (is_companion or has_image_suffix(info.name)):
                    raise RequestError(
                        f"{redact_url(tar)}: '{info.name}' is a link, without bytes of its own; "
                        "pack it with tar --dereference --hard-dereference"
                    )
                if not info.isfile():
                    continue
                text = None
                if is_companion:
                    content = archive.extractfile(info)
                    text = content.read().decode(errors="replace") if content else None
                yield Member(info.name, info.offset_data, info.size, text)
                # A tar remembers every member it has seen: unbounded in a large one.
                archive.members = []  # type: ignore[attr-defined]
            # What is no header is taken for the end, which would lose all that follows.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"it is damaged at byte {archive.offset:,}")
    except FileNotFoundError as error:
        raise RequestError(f"{redact_url(tar)} does not exist") from error
    except (tarfile.TarError, OSError) as error:
        raise RequestError(
            f"{redact_url(tar)} cannot be read as a tar: {describe(error)}"
        ) from error


def _is_hidden(name: str) -> bool:
    # A Mac puts ._a.jpg beside a.jpg, which is no image.
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _companion(sample: list[Member], extension: str) -> str | None:
    return next((member.text for member in sample if member.extension == extension), None)
