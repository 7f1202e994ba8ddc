"""What can go wrong, by who can mend it."""

from __future__ import annotations

from typing import Literal

ErrorClass = Literal["input", "storage", "resource"]


class RequestError(ValueError):
    """The request is wrong: said before anything is read or written. Exit code 2."""


class SystemFault(RuntimeError):
    """Something every row needs is broken (credentials, space, the device). Stops the run."""


class ServerGone(SystemFault):
    """The server that is told of a run does not answer any more."""


class ShardLost(RuntimeError):
    """A shard was not finished, for a reason that may pass: it can be done again."""


class RowError(Exception):
    """One row cannot be done, and why.

    Args:
        error_class: ``input``: the image is bad; ``storage``: may pass; ``resource``: too big
            or too slow for this machine.
        message: for a person; no secrets, no addresses with credentials.
    """

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message
