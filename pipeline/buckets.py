"""Objects of S3 by way of obstore, which takes a fifth of the processor time that s3fs takes.

Only what goes well at once: all else is left to s3fs, whose errors retry.py tells apart. Where
the buckets are and who asks is what s3fs finds, too.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import obstore
from fsspec import AbstractFileSystem
from fsspec.asyn import sync
from obstore.store import S3Store

from pipeline.url import describe

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential

# Requests at once.
REQUESTS = 64

# Larger ones are written in parts, for which s3fs does.
MAX_BYTES = 64 << 20

# obstore asks for credentials anew five minutes before they end; who has them knows better when
# that is.
CREDENTIALS_HOLD = timedelta(minutes=10)

# Calls of which nothing went well, one after the other, and for how many seconds obstore is not
# asked then: what it cannot do, as with certificates of one's own, must not be tried every time.
FAILURES = 3
REST = 600.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class Buckets:
    """The buckets that one S3FileSystem reaches.

    Args:
        fs: of s3fs, with no options of its own but for endpoint, region, profile and anon.
        connect_timeout, timeout: of a request, in seconds.
    """

    def __init__(self, fs: AbstractFileSystem, connect_timeout: float, timeout: float) -> None:
        self._fs = fs
        self._timeouts: ClientConfig = {
            "connect_timeout": timedelta(seconds=connect_timeout),
            "timeout": timedelta(seconds=timeout),
        }
        self._stores: dict[str, S3Store] = {}
        self._failures = 0
        self._resting_until = 0.0

    def read(
        self, paths: Sequence[str], starts: Sequence[int | None], ends: Sequence[int | None]
    ) -> list[bytes | None]:
        """As ``AbstractFileSystem.cat_ranges``, but None for what s3fs is to be asked for."""
        return self._each(self._read, list(zip(paths, starts, ends, strict=True)))

    def put(self, files: Mapping[str, bytes]) -> list[str]:
        """Put what can be put of ``files``, path to bytes; the paths of these."""
        done = self._each(self._put, list(files.items()))
        return [path for path in done if path is not None]

    def _each(self, call: Callable[..., Awaitable[T]], given: list[Any]) -> list[T | None]:
        if time.monotonic() < self._resting_until:
            return [None] * len(given)
        found: list[T | Exception] = sync(self._fs.loop, _gathered, call, given)
        faults = [
            one
            for one in found
            if isinstance(one, Exception) and not isinstance(one, (FileNotFoundError, ValueError))
        ]
        self._failures = self._failures + 1 if len(faults) == len(given) else 0
        if self._failures == FAILURES:
            self._failures, self._resting_until = 0, time.monotonic() + REST
            log.warning("S3 by s3fs alone for the next %.0f s: %s", REST, describe(faults[0]))
        return [None if isinstance(one, Exception) else one for one in found]

    async def _read(self, path: str, start: int | None, end: int | None) -> bytes:
        bucket, key = _split(path)
        store = await self._store(bucket)
        if start is None and end is None:
            found = await obstore.get_async(store, key)
            return (await found.bytes_async()).to_bytes()
        return (await obstore.get_range_async(store, key, start=start or 0, end=end)).to_bytes()

    async def _put(self, path: str, data: bytes) -> str:
        if len(data) > MAX_BYTES:
            raise ValueError("too large")
        bucket, key = _split(path)
        store = await self._store(bucket)
        await obstore.put_async(
            store, key, data, use_multipart=False, attributes={"Content-Type": content_type(key)}
        )
        return path

    async def _store(self, bucket: str) -> S3Store:
        if bucket not in self._stores:
            client = await self._fs.set_session()
            endpoint, region = client.meta.endpoint_url, client.meta.region_name or "us-east-1"
            config: S3Config = {"skip_signature": self._fs.anon}
            if urlsplit(endpoint).hostname in ("s3.amazonaws.com", f"s3.{region}.amazonaws.com"):
                # There a bucket has to be asked for in its own region.
                config["region"] = await _region_of(client, bucket) or region
            else:
                config["region"], config["endpoint"] = region, endpoint
            self._stores[bucket] = S3Store(
                bucket,
                config=config,
                credential_provider=None if self._fs.anon else self._credentials,
                client_options={**self._timeouts, "allow_http": endpoint.startswith("http:")},
                retry_config={"max_retries": 0},
            )
        return self._stores[bucket]

    async def _credentials(self) -> S3Credential:
        credentials = await self._fs.session.get_credentials()
        frozen = await credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_HOLD,
        }


def content_type(key: str) -> str:
    """What a browser is to take the object for."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


async def _gathered(
    call: Callable[..., Awaitable[T]], given: Sequence[Any]
) -> list[T | BaseException]:
    at_once = asyncio.Semaphore(REQUESTS)

    async def one(arguments: Any) -> T:
        async with at_once:
            return await call(*arguments)

    return await asyncio.gather(*map(one, given), return_exceptions=True)


async def _region_of(client: Any, bucket: str) -> str | None:
    """Where a bucket of Amazon's is; it tells even those who may not look into it."""
    try:
        answer = await client.head_bucket(Bucket=bucket)
    except Exception as error:
        answer = getattr(error, "response", {})
    return answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")


def _split(path: str) -> tuple[str, str]:
    """Bucket and key.

    Raises:
        ValueError: the key is one that obstore would change.
    """
    bucket, _, key = path.partition("/")
    if not key or key != key.strip("/"):
        raise ValueError(key)
    return bucket, key
