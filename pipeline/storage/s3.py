"""The buckets that a job's options lead to: by s3fs, and more quickly where that can be."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem, filesystem

from pipeline.errors import RequestError
from pipeline.storage import retry
from pipeline.storage.retry import CONNECT_TIMEOUT, READ_TIMEOUT
from pipeline.url import describe

if TYPE_CHECKING:
    from pipeline.storage.buckets import Buckets

# Options that are all that there is to know of a bucket.
PLAIN_OPTIONS = {"endpoint_url", "profile", "region", "anon"}


class S3:
    """File systems of S3.

    Args:
        options: as of Storage.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._systems: dict[int, AbstractFileSystem] = {}
        self._buckets: Buckets | None = None
        self._making_buckets = threading.Lock()

    def system(self, attempts: int) -> AbstractFileSystem:
        """The one that makes so many attempts by itself.

        Raises:
            RequestError: the options are wrong.
        """
        fs = self._systems.get(attempts)
        if fs is None:
            import s3fs.core

            s3fs.core.set_custom_error_handler(_may_pass)
            try:
                # One for each number of attempts, which fsspec's cache does not know of.
                fs = filesystem("s3", skip_instance_cache=True, **self._given())
            except (ValueError, TypeError, OSError) as error:
                raise RequestError(f"the options of S3 are wrong: {describe(error)}") from error
            fs.retries = attempts
            self._systems[attempts] = fs
        return fs

    def quick(self) -> Buckets | None:
        """A quicker way, unless there are options of which only s3fs knows."""
        if self._options.keys() - PLAIN_OPTIONS:
            return None
        fs = self.system(1)
        if fs.storage_options.keys() - self._given().keys():  # of fsspec's own configuration
            return None
        with self._making_buckets:
            if self._buckets is None or self._buckets.fs is not fs:
                from pipeline.storage.buckets import Buckets

                self._buckets = Buckets(fs, CONNECT_TIMEOUT, READ_TIMEOUT)
            return self._buckets

    def learn_from(self, error: BaseException) -> None:
        """Forget the file systems if ``error`` says that their credentials have expired."""
        if retry.has_expired(error):
            self._systems.clear()  # a new one looks for credentials anew

    def outage(self, bucket: str) -> str:
        """What is wrong if ``bucket`` does not answer at all."""
        try:
            self.system(1).call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        except Exception as error:
            self.learn_from(error)
            if retry.passes(error):
                return f"s3://{bucket} does not answer: {describe(error)}"
        return ""

    def _given(self) -> dict[str, Any]:
        options: dict[str, Any] = dict(self._options)
        region = options.pop("region", None)
        if "anon" in options:
            options["anon"] = options["anon"].lower() in ("1", "true", "yes")
        return {
            **options,
            "client_kwargs": {"region_name": region} if region else {},
            "config_kwargs": {
                "connect_timeout": CONNECT_TIMEOUT,
                "read_timeout": READ_TIMEOUT,
                "max_pool_connections": 64,
                # Retries of three layers multiply; ours are the outermost, so the only ones.
                "retries": {"total_max_attempts": 1},
            },
            # Images are small: splitting one into concurrent ranges costs more than it gains.
            "max_concurrency": 1,
            # Others write here too, and a listing is asked for once.
            "use_listings_cache": False,
        }


def _may_pass(error: Exception) -> bool:
    """Whether s3fs should try again; it does so by itself after some other faults."""
    return retry.is_fault_of_server(error) or (isinstance(error, OSError) and retry.passes(error))
