"""URLs as texts: where they lead, and what of them must not be told."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from pipeline.errors import RowError

S3_SCHEMES = ("s3", "s3a")
WEB_SCHEMES = ("http", "https")

# Azure's, where the @ of abfs://container@account/... is part of the place.
AZURE_SCHEMES = ("abfs", "abfss", "az")

# An object's key may have 1024 bytes on S3; a file's name 255 on the usual file systems.
MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 255

# What is cut from a text but for the group: who asks, the query of a signed address, a key's id.
# The name of an image in a tar may have any sign in it, a key on S3 a question mark. Where an
# address ends can only be guessed: its path may have spaces and quotes, its query has no spaces.
USER = re.compile(r"(?<!\btar)(?<!\babfs)(?<!\babfss)(?<!\baz)(://)[^/\s]+@")
QUERY = re.compile(r"(?<!\btar)(?<!\bs3)(?<!\bs3a)(://[^?\n]*)(?:\?\S*[^\s'\",.:;)\]}>])?")
KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{12,}")

# What s3fs makes of an answer that has a code and no message, as Ceph's; its cause has the code.
NOTHING_SAID = re.compile(r"(\[Errno \d+\] )?None")

FILE = re.compile(r"^file://(localhost(?=/))?", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """``s3`` of s3://bucket/key, ``file`` of a path; of an image in a tar, that of the tar."""
    scheme, separator, _ = tar_of(url).partition("://")
    return scheme.lower() if separator and scheme != "local" else "file"


def tar_of(url: str) -> str:
    """The tar of ``tar://member::tar``; any other URL as it is."""
    return url.rpartition("::")[2] if url.startswith("tar://") else url


def plain_path(url: str) -> str:
    """The path of a ``file://`` URL, as ``Path.as_uri()`` writes it; any other text as it is."""
    path = FILE.sub("", url, count=1)
    return path if path == url else unquote(path)


def absolute(url: str) -> str:
    """``url`` without a trailing slash; a local path in full, without ``file://``."""
    if scheme_of(url) == "file":
        return os.path.abspath(os.path.expanduser(plain_path(url).removeprefix("local://")))
    return url.rstrip("/")


def join(base: str, *names: str) -> str:
    """A URL below ``base``."""
    return "/".join([base.rstrip("/"), *names])


def check_name(name: str, folder: str = "") -> None:
    """Raise a RowError if nothing can be stored under ``name`` in the folder or prefix."""
    remote = "://" in folder
    key = join(folder.split("/", 3)[-1], name) if remote else name
    if len(key.encode()) > MAX_KEY_BYTES:
        raise RowError("input", f"the id is too long: {len(key.encode())} bytes")
    longest = max(len(part.encode()) for part in name.split("/"))
    if longest > MAX_NAME_BYTES:
        raise RowError("input", f"a name in the id is too long: {longest} bytes")


def has_user(url: str) -> bool:
    """Whether ``url`` says who asks, as https://me:password@host does."""
    scheme, _, rest = tar_of(url).partition("://")
    return scheme.lower() not in AZURE_SCHEMES and "@" in rest.partition("/")[0]


def redact_url(url: str) -> str:
    """``url`` without what could let someone in; all of it is one address or path."""
    tar = tar_of(url)
    scheme, separator, rest = tar.partition("://")
    if has_user(tar):
        host, slash, path = rest.partition("/")
        rest = host.rpartition("@")[2] + slash + path
    if scheme.lower() in WEB_SCHEMES:
        rest = rest.partition("?")[0]
    return KEY_ID.sub(r"\1…", url.removesuffix(tar) + scheme + separator + rest)


def redact(text: str) -> str:
    """A running ``text`` with everything cut from its URLs that could let someone in."""
    return KEY_ID.sub(r"\1…", QUERY.sub(r"\1", USER.sub(r"\1", text)))


def describe(error: BaseException) -> str:
    """What went wrong, in one short line without secrets."""
    text = " ".join(str(error).split())
    if NOTHING_SAID.fullmatch(text) and error.__cause__:
        return describe(error.__cause__)
    return redact(text.removesuffix(": None") or type(error).__name__)[:300]
