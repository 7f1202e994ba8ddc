"""Folders on this machine to write in, seen to before the work whose results they are for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.url import redact_url


def check_here(path: str) -> None:
    """Raise a RequestError if ``path`` is a URL, where only a path on this machine will do."""
    if "://" in path:
        raise RequestError(f"{redact_url(path)} is a URL; give a path on this machine")


def make_folder(place: str) -> Path:
    """The folder at ``place``, made if it is not there; files can be written in it.

    Raises:
        RequestError: it is a URL or a file, or cannot be made or written in.
    """
    check_here(place)
    folder = Path(place).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RequestError(f"{folder} is no folder to write in: {error.strerror}") from error
    return folder
