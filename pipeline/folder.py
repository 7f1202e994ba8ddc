"""Folders on this machine to write in, seen to before the work whose results they are for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.url import redact_url


def make_folder(place: str) -> Path:
    """The folder at ``place``, made if it is not there; files can be written in it.

    Raises:
        RequestError: it is a URL or a file, or cannot be made or written in.
    """
    if "://" in place:
        raise RequestError(f"{redact_url(place)} is a URL; give a path on this machine")
    folder = Path(place).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RequestError(f"{folder} is no folder to write in: {error.strerror}") from error
    return folder
