"""The manifest: what is to be done, as batches of rows, whatever the source."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.job import FOLDERS
from pipeline.manifest.listings import (
    check_glob,
    has_image_suffix,
    is_glob,
    list_image,
    list_images,
    root_of,
)
from pipeline.manifest.rows import (
    ROW_SCHEMA,
    carried_schema,
    check_places,
    check_schemes,
    folder_of,
    rows_of,
)
from pipeline.manifest.tables import READERS, Table
from pipeline.manifest.tars import TAR_COLUMNS, expand, is_tar, tar_rows
from pipeline.storage import Storage
from pipeline.url import absolute, describe, join, redact_url, scheme_of


@dataclass(frozen=True)
class Manifest:
    """Rows to process.

    Args:
        name: for messages, without secrets.
        carried: the manifest's own columns.
        read: begins to read: record batches of ROW_SCHEMA and ``carried``. Raises a RequestError
            when it comes to a row that is wrong.
    """

    name: str
    carried: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]]

    @property
    def schema(self) -> pa.Schema:
        """Of the batches."""
        return pa.schema([*ROW_SCHEMA, *self.carried])


def open_manifest(
    storage: Storage,
    source: str,
    *,
    out: str = "",
    reserved: frozenset[str] = frozenset(),
    allow_schemes: tuple[str, ...] = (),
) -> Manifest:
    """Open whatever ``source`` is: a table, a list, a folder, a prefix, a glob, tars, an image.

    Args:
        out: the folder of results; images in it are not listed.
        reserved: column names that the manifest must not have.
        allow_schemes: URL schemes that rows may have besides s3 and that of ``source``.

    Raises:
        RequestError: it is not there or cannot be read.
    """
    source = absolute(source)
    name = redact_url(source)
    suffix = posixpath.splitext(source)[1].lower()
    check_glob(source)
    storage.check(source)
    out = absolute(out) if out else ""
    if is_tar(source):
        results = f"{out}/{FOLDERS['webdataset']}/"
        if out and source.startswith(results):
            raise RequestError(
                f"--out {redact_url(out)} would put results among the tars of {name}; choose "
                "another folder"
            )
        tars = [tar for tar in expand(storage, source) if not (out and tar.startswith(results))]
        return Manifest(name, TAR_COLUMNS, lambda: tar_rows(storage, tars))
    if suffix in READERS and not is_glob(source):
        carried = carried_schema(_open_table(storage, source)[0], reserved, name)
        allowed = frozenset({scheme_of(source), "s3", *allow_schemes})
        return Manifest(name, carried, lambda: _table(storage, source, carried, allowed, out))
    return Manifest(name, pa.schema([]), lambda: _listing(storage, source, out))


def _listing(storage: Storage, source: str, out: str) -> Iterator[pa.RecordBatch]:
    fs, path = storage.open(source)
    try:
        if is_glob(source) or not fs.isfile(path):
            yield from list_images(storage, source, _results_below(root_of(source), out))
            return
        if not has_image_suffix(redact_url(source)):
            raise RequestError(
                f"{redact_url(source)} is neither an image nor a manifest; SOURCE may be a folder, "
                "a prefix, a glob, an image (.jpg, .png, ...), a table (.parquet, .csv, .jsonl, "
                ".txt) or a .tar; unpack anything that is compressed first"
            )
        _results_below(folder_of(source), out)
        yield from list_image(storage, source)
    except FileNotFoundError as error:
        raise RequestError(f"{redact_url(source)} does not exist") from error
    except OSError as error:
        raise RequestError(f"{redact_url(source)} cannot be listed: {describe(error)}") from error


def _results_below(root: str, out: str) -> str:
    """The folder of results if it is below ``root``, where it would be taken for photos."""
    if not out:
        return ""
    real_root, real_out = _real(root), _real(out)
    if real_root == real_out or f"{real_root}/".startswith(f"{real_out}/images/"):
        raise RequestError(
            f"--out {redact_url(out)} would put results among the photos of {redact_url(root)}; "
            "choose another folder"
        )
    # As the listing calls it, which may come to it by way of a link.
    below = real_out.removeprefix(real_root.rstrip("/") + "/")
    return join(root, below) if below != real_out else ""


def _real(url: str) -> str:
    return os.path.realpath(url) if scheme_of(url) == "file" else url


def _open_table(storage: Storage, source: str) -> Table:
    fs, path = storage.open(source)
    try:
        file = fs.open(path, "rb")
        schema, batches = READERS[posixpath.splitext(source)[1].lower()](file)
        _ = schema.names  # not decoded before they are asked for
        return schema, batches
    except FileNotFoundError as error:
        raise RequestError(f"{redact_url(source)} does not exist") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{redact_url(source)} is not UTF-8: {describe(error)}") from error
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{redact_url(source)} cannot be read: {describe(error)}") from error


def _table(
    storage: Storage, source: str, carried: pa.Schema, allowed: frozenset[str], out: str
) -> Iterator[pa.RecordBatch]:
    name = redact_url(source)
    first = 1
    try:
        for batch in _open_table(storage, source)[1]:
            rows = rows_of(batch, carried, folder_of(source), name, first)
            check_schemes(rows.column("source_uri"), allowed, name, first)
            check_places(rows.column("source_uri"), out, name, first)
            yield rows
            first += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{name}, after row {first - 1}: {describe(error)}") from error
