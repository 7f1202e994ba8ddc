"""Rows: what every kind of manifest becomes.

A batch of rows is a pyarrow RecordBatch of the columns in ROW_SCHEMA, followed by the
manifest's own columns, which are carried through to the ledger as they are.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import RequestError
from pipeline.url import plain_path, redact_url

ROW_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_size", pa.int64()),
        # Changes when the image does: the store's etag, or the time of the last change.
        pa.field("source_etag", pa.string()),
        # Where the image begins in a tar; null where it is a file of its own.
        pa.field("_source_offset", pa.int64()),
        # Of this row alone, null where the job's hold.
        pa.field("style", pa.string()),
        pa.field("strength", pa.float64()),
        pa.field("seed", pa.int64()),
    ]
)

# Manifest columns that mean something here; all others are carried through.
KNOWN = ("uri", "id", "style", "strength", "seed")

SCHEME = r"^[A-Za-z][A-Za-z0-9+.\-]*://"
DOT_SEGMENT = r"(^|[/\\])\.\.?($|[/\\])"

# Of an id whose result would lie outside the output folder.
OUTSIDE = rf"^/|{DOT_SEGMENT}|//|/$|\x00"


def carried_schema(schema: pa.Schema, reserved: Iterable[str], name: str) -> pa.Schema:
    """The manifest's own columns that hold something, of the types that the ledger will have.

    Args:
        reserved: names that the ledger uses.
        name: of the manifest, for the message.

    Raises:
        RequestError: no ``uri`` column, a column twice, a clash with the ledger, or a type that no
            Parquet file has.
    """
    for column in schema.names:
        meant = column.strip().lower()
        if meant in KNOWN and meant not in schema.names:
            raise RequestError(f"{name}: column '{column}' is to be '{meant}'; rename it")
    if "uri" not in schema.names:
        if len(schema.names) == 1 and any(sign in schema.names[0] for sign in ";\t"):
            raise RequestError(f"{name}: put commas between the columns, not '{schema.names[0]}'")
        raise RequestError(
            f"{name} has no column 'uri'; its columns are {', '.join(schema.names)}. "
            "Rename the one that holds the paths or URLs of the images"
        )
    for column in schema.names:
        if schema.names.count(column) > 1:
            raise RequestError(f"{name} has two columns named '{column}'")
        if column in reserved and column not in KNOWN:
            raise RequestError(
                f"{name}: column '{column}' clashes with the ledger, which has a column of that "
                "name; rename it in the manifest"
            )
    # One that is empty so far has no type, and may well get one in a later run.
    own = [f for f in schema if f.name not in KNOWN and not pa.types.is_null(f.type)]
    # And one that comes later is null in the rows of before.
    return pa.schema([f.with_type(_kept(f, name)).with_nullable(True) for f in own])


def rows_of(
    batch: pa.RecordBatch, carried: pa.Schema, base: str, name: str, first: int
) -> pa.RecordBatch:
    """Rows from a batch of a manifest as it was read.

    Args:
        batch: has a ``uri`` column; relative ones are relative to ``base``.
        carried: as carried_schema gives it.
        base: URL of the manifest's folder.
        name: of the manifest, and ``first`` the number of the batch's first row (from 1), for
            messages.

    Raises:
        RequestError: an empty uri or id, an id that leaves the output folder, a column that
            cannot be what it has to be.
    """
    columns = {column: batch.column(column) for column in batch.schema.names}
    uri = _as(columns["uri"], pa.string(), "uri", name)
    _refuse(_blank(uri), f"{name}, row {{}}: the uri is empty", first)
    full = full_uris(uri, base)
    _refuse(
        pc.match_substring(full, "\0"),
        f"{name}, row {{}}: the uri has a NUL in it, which no path has; write the uri anew",
        first,
    )
    if "id" in columns:
        ids = _as(columns["id"], pa.string(), "id", name)
        _refuse(_blank(ids), f"{name}, row {{}}: the id is empty", first)
    else:
        ids = ids_of(full, base)
    check_ids(ids, name, first)
    strength = _as(columns.get("strength"), pa.float64(), "strength", name, len(batch))
    inside = pc.and_(pc.greater_equal(strength, 0.0), pc.less_equal(strength, 1.0))
    _refuse(pc.invert(inside), f"{name}, row {{}}: the strength is not between 0 and 1", first)
    sizes, etags = stat_local(full)
    return pa.RecordBatch.from_arrays(
        [
            ids,
            full,
            sizes,
            etags,
            pa.nulls(len(batch), pa.int64()),
            _none_if_empty(_as(columns.get("style"), pa.string(), "style", name, len(batch))),
            strength,
            _as(columns.get("seed"), pa.int64(), "seed", name, len(batch)),
            *[columns[field.name].cast(field.type) for field in carried],
        ],
        schema=pa.schema([*ROW_SCHEMA, *carried]),
    )


def listed_rows(
    uris: Sequence[str],
    base: str,
    sizes: Sequence[int | None],
    etags: Sequence[str | None],
) -> pa.RecordBatch:
    """Rows for files found below the folder or prefix ``base``."""
    try:
        full = pa.array(uris, pa.string())
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{error.object!r} has a name that is not UTF-8 and cannot be written down; rename it"
        ) from error
    ids = inside_ids(ids_of(full, base))
    return _bare(ids, full, pa.array(sizes, pa.int64()), pa.array(etags, pa.string()))


def _bare(ids: pa.Array, uris: pa.Array, sizes: pa.Array, etags: pa.Array) -> pa.RecordBatch:
    nothing = [pa.nulls(len(ids), field.type) for field in list(ROW_SCHEMA)[4:]]
    return pa.RecordBatch.from_arrays([ids, uris, sizes, etags, *nothing], schema=ROW_SCHEMA)


def full_uris(uri: pa.Array, base: str) -> pa.Array:
    """``uri`` with those that are relative put below ``base``; local ones as plain paths."""
    anchored = pc.match_substring_regex(uri, rf"^/|{SCHEME}")
    full = pc.if_else(anchored, uri, pc.binary_join_element_wise(base.rstrip("/"), uri, "/"))
    is_file_url = pc.match_substring_regex(full, "^(?i)file://")
    if pc.any(is_file_url).as_py():
        full = pa.array(map(plain_path, full.to_pylist()), pa.string())
    # On S3 '..' and '//' are names like any other, on a disk they are not.
    untidy = pc.and_(
        pc.match_substring_regex(full, rf"{DOT_SEGMENT}|.//"),
        pc.invert(pc.and_(anchored, pc.match_substring_regex(full, SCHEME))),
    )
    if not pc.any(untidy).as_py():
        return full
    tidied = [
        _tidy(text) if bad else text
        for text, bad in zip(full.to_pylist(), untidy.to_pylist(), strict=True)
    ]
    return pa.array(tidied, pa.string())


def _kept(column: pa.Field, name: str) -> pa.DataType:
    """As what Parquet gives back what is in a column: of seconds it makes milliseconds."""
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.schema([column.with_type(_workable(column.type))]).empty_table(), sink)
    except pa.ArrowNotImplementedError as error:
        raise RequestError(
            f"{name}: column '{column.name}' is {column.type}, which the ledger cannot hold; write "
            "it as another type, or leave it out"
        ) from error
    return pq.read_schema(pa.BufferReader(sink.getvalue())).field(0).type


def _workable(kind: pa.DataType) -> pa.DataType:
    """``kind``, or what to carry it as."""
    if pa.types.is_dictionary(kind):  # each part has words of its own: too many for 8 bits
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    # Arrow cannot take rows of views; and what is large elsewhere is the same text in a CSV.
    if kind in (pa.string_view(), pa.large_string()):
        return pa.string()
    return pa.binary() if kind in (pa.binary_view(), pa.large_binary()) else kind


def _tidy(url: str) -> str:
    scheme, separator, path = url.rpartition("://")
    return scheme + separator + posixpath.normpath(path)


def ids_of(full: pa.Array, base: str) -> pa.Array:
    """Ids for sources without one: the path below ``base``, else the whole path."""
    folder = base.rstrip("/") + "/"
    full = pc.replace_substring_regex(full, r"^(?i)(https?://[^?#]*)[?#].*$", r"\1")
    whole = pc.replace_substring_regex(full, rf"^({SCHEME}([^/]*@)?)?/*", "")
    below = pc.utf8_slice_codeunits(full, len(folder))
    return pc.if_else(pc.starts_with(full, folder), below, whole)


def check_ids(ids: pa.Array, name: str, first: int) -> None:
    """Raise a RequestError for an id that would be written outside the output folder."""
    _refuse(
        pc.match_substring_regex(ids, OUTSIDE),
        f"{name}, row {{}}: the id is not a relative path, so its result would lie outside the "
        "output folder; give the row another id",
        first,
    )


def inside_ids(ids: pa.Array) -> pa.Array:
    """Ids that were given to nobody's choice, so that each is a relative path.

    A key of S3, or a member of a tar, may have parts that are no names of files: ``a//b.jpg``,
    ``../c.jpg``. These get a ``%`` before them: ``a/%/b.jpg``, ``%../c.jpg``.
    """
    outside = pc.match_substring_regex(ids, OUTSIDE)
    if not pc.any(outside).as_py():
        return ids
    plain = [
        re.sub(r"(^|[/\\])(\.{0,2})(?=$|[/\\])", r"\1%\2", text.replace("\0", "%")) if bad else text
        for text, bad in zip(ids.to_pylist(), outside.to_pylist(), strict=True)
    ]
    return pa.array(plain, pa.string())


class SchemeRefused(RequestError):
    """A URL scheme that a manifest may not name."""

    @property
    def what(self) -> str:
        """What is not allowed, and where it stands; without what a job can do about it."""
        return str(self).rpartition(";")[0]


def check_schemes(uris: pa.Array, allowed: Iterable[str], name: str, first: int) -> None:
    """Raise a RequestError for a URL scheme that was not allowed."""
    schemes = pc.struct_field(
        pc.extract_regex(uris, r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://"), "scheme"
    )
    schemes = pc.utf8_lower(pc.fill_null(schemes, "file"))
    for scheme in pc.unique(schemes).to_pylist():
        if scheme not in allowed:
            row = pc.index(schemes, scheme).as_py()
            kind = "a local path" if scheme == "file" else f"the scheme '{scheme}'"
            raise SchemeRefused(
                f"{name}, row {first + row}, column uri: {kind} is not allowed here; if you trust "
                f"this manifest, add --allow-scheme {scheme}"
            )


def check_places(uris: pa.Array, out: str, name: str, first: int) -> None:
    """Raise a RequestError for a photo that lies where results go, which would replace it."""
    if out:
        _refuse(
            pc.starts_with(uris, f"{out.rstrip('/')}/images/"),
            f"{name}, row {{}}: the photo lies among the results of --out {redact_url(out)}, which "
            "would replace it; choose another folder",
            first,
        )


def stat_local(uris: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Sizes and change times of the local ones among ``uris``; null for all others."""
    sizes: list[int | None] = []
    etags: list[str | None] = []
    for uri in uris.to_pylist():
        found = None
        if uri.startswith("/"):
            with suppress(OSError):  # reading it will say why
                found = os.stat(uri)
        sizes.append(found.st_size if found else None)
        etags.append(str(found.st_mtime_ns) if found else None)
    return pa.array(sizes, pa.int64()), pa.array(etags, pa.string())


def folder_of(url: str) -> str:
    """The folder or prefix in which ``url`` lies."""
    return posixpath.dirname(url)


def _none_if_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _blank(texts: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))), 0)


def _refuse(bad: pa.Array, message: str, first: int) -> None:
    if pc.any(bad).as_py():
        raise RequestError(message.format(first + pc.index(bad, True).as_py()))


def _as(
    column: pa.Array | None, wanted: pa.DataType, label: str, name: str, length: int = 0
) -> pa.Array:
    if column is None:
        return pa.nulls(length, wanted)
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RequestError(
            f"{name}: column '{label}' is {column.type}, which cannot be read as {wanted}: {error}"
        ) from error
