"""Which faults of storage pass, and how long to wait for that."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import RequestError

Result = TypeVar("Result")

# Seconds. One lost connection must not hold a shard for longer than a person would wait.
CONNECT_TIMEOUT = 10
READ_TIMEOUT = 60

# With one request in ten failing, one row in a million fails so many times in a row.
ATTEMPTS = 6

# Seconds after which fewer attempts are enough: they hang, rather than fail.
LONG_ENOUGH = 2.0 * READ_TIMEOUT

# Seconds; each delay is twice the last one.
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0

# Seconds for which storage that does not answer at all is waited for.
PATIENCE = 180.0

# What is so the next time, too: the last three are a wrong request, or a mistake of ours.
NEVER_PASS = (
    FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError,
    RequestError, TypeError, AttributeError,
)  # fmt: skip

# What S3 says of credentials that were good once; new ones may lie where the old ones were found.
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}


def retried(call: Callable[[], Result], patience: float = 0.0) -> Result:
    """What ``call`` returns; called again after faults that pass, for ``patience`` seconds.

    However short that is, ATTEMPTS times; and no more where the server answers, and refuses.
    """
    began = time.monotonic()
    attempt = 1
    while True:
        try:
            return call()
        except Exception as error:  # file systems raise what their clients raise: no common class
            waited_enough = time.monotonic() > began + patience or is_refusal(error)
            if (tried_enough(attempt, began) and waited_enough) or not passes(error):
                raise
        back_off(attempt)
        attempt += 1


def tried_enough(attempts: int, began: float) -> bool:
    """Whether so many attempts since ``began``, of time.monotonic(), have shown what there is."""
    return attempts >= ATTEMPTS or time.monotonic() > began + LONG_ENOUGH


def passes(error: BaseException) -> bool:
    """Whether what failed with ``error`` may succeed when it is tried again."""
    return has_expired(error) or not (isinstance(error, NEVER_PASS) or is_wrong(error))


def is_wrong(error: BaseException) -> bool:
    """Whether nobody was asked, as no bucket can have such a name."""
    # Of botocore, which takes a while to import and may not be needed.
    return type(error).__name__ == "ParamValidationError"


def has_expired(error: BaseException) -> bool:
    """Whether it failed for credentials that were good once."""
    return _answer(error).get("Error", {}).get("Code") in EXPIRED


def is_fault_of_server(error: BaseException) -> bool:
    """Whether a server answered, and that it could not."""
    return _status(error) >= 500


def is_refusal(error: BaseException) -> bool:
    """Whether a server answered that it will not, or has no such function."""
    status = _status(error)
    return (400 <= status < 500 or status == 501) and not has_expired(error)


def is_unknown(error: BaseException) -> bool:
    """Whether a server answered that it has no such function."""
    return _status(error) == 501


def back_off(attempt: int) -> None:
    """Wait before attempt number ``attempt`` + 1, each time for longer, never in step."""
    delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (attempt - 1))
    time.sleep(delay * random.uniform(0.5, 1.5))


def _status(error: BaseException) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answer(error: BaseException) -> dict[str, Any]:
    """What an S3 server answered; s3fs raises errors of its own from botocore's."""
    for one in (error, error.__cause__):
        if isinstance(response := getattr(one, "response", None), dict):
            return response
    return {}
