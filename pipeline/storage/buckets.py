"""Objects of S3 by way of obstore, which takes a fifth of the processor time that s3fs takes.

Only what goes well at once: all else is left to s3fs, whose errors retry.py tells apart. Where
the buckets are and who asks is what s3fs finds, too.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import threading
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
    from obstore.store import ClientConfig, S3Credential, S3CredentialProvider

# Requests at once, of all threads.
REQUESTS = 64

# Larger ones are written in parts, for which s3fs does.
MAX_BYTES = 64 << 20

# A whole request: what matters is that it does not fall silent, but obstore wants a limit.
LONGEST = timedelta(hours=1)

# obstore asks for credentials anew five minutes before they end; who has them knows better when
# that is.
CREDENTIALS_HOLD = timedelta(minutes=10)

# Calls of which nothing went well, one after the other, and for how many seconds obstore is not
# asked then, twice as long each time: what it cannot do, as with certificates of one's own, must
# not be tried again and again.
FAILURES = 3
REST, DOUBLED = 30.0, 6

log = logging.getLogger(__name__)

T = TypeVar("T")


class Buckets:
    """The buckets that one S3FileSystem reaches.

    Args:
        fs: of s3fs, with no options of its own but for endpoint, region, profile and anon.
        connect_timeout, read_timeout: seconds, as of botocore.
    """

    def __init__(self, fs: AbstractFileSystem, connect_timeout: float, read_timeout: float) -> None:
        self.fs = fs
        self._limits: ClientConfig = {
            "connect_timeout": timedelta(seconds=connect_timeout),
            "read_timeout": timedelta(seconds=read_timeout),
            "timeout": LONGEST,
        }
        self._stores: dict[str, S3Store] = {}
        self._opening = asyncio.Lock()
        self._at_once = asyncio.Semaphore(REQUESTS)
        self._counting = threading.Lock()
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
        found: list[T | BaseException] = sync(self.fs.loop, self._gathered, call, given)
        self._learn_from(found)
        return [None if isinstance(one, BaseException) else one for one in found]

    def _learn_from(self, found: Sequence[object]) -> None:
        told = (FileNotFoundError, ValueError)  # of one object, and not of the way to it
        faults = [
            one for one in found if isinstance(one, BaseException) and not isinstance(one, told)
        ]
        with self._counting:
            if len(faults) < len(found):
                self._failures = 0
            elif time.monotonic() > self._resting_until:  # else it was asked before the rest
                self._failures += 1
                if self._failures == FAILURES:
                    # Without what the server says at length, as it may repeat who has asked.
                    why = describe(faults[0]).partition("<")[0]
                    log.warning(f"S3 by s3fs alone, which takes more processor time: {why}")
                if self._failures >= FAILURES:
                    rest = REST * 2 ** min(self._failures - FAILURES, DOUBLED)
                    self._resting_until = time.monotonic() + rest

    async def _gathered(
        self, call: Callable[..., Awaitable[T]], given: Sequence[Any]
    ) -> list[T | BaseException]:
        async def one(arguments: Any) -> T:
            async with self._at_once:
                return await call(*arguments)

        return await asyncio.gather(*map(one, given), return_exceptions=True)

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
        async with self._opening:
            if bucket not in self._stores:
                self._stores[bucket] = await self._open(bucket)
        return self._stores[bucket]

    async def _open(self, bucket: str) -> S3Store:
        client = await self.fs.set_session()
        endpoint, region = client.meta.endpoint_url, client.meta.region_name or "us-east-1"
        if urlsplit(endpoint).hostname in ("s3.amazonaws.com", f"s3.{region}.amazonaws.com"):
            # There a bucket has to be asked for in its own region.
            region = await _region_of(client, bucket)
            endpoint = f"https://s3.{region}.amazonaws.com"
        return S3Store(
            bucket,
            # All that decides where it leads: what is missing obstore takes from variables of the
            # environment that no other program knows.
            config={
                "endpoint": endpoint,
                "region": region,
                "virtual_hosted_style_request": False,
                "skip_signature": self.fs.anon,
            },
            credential_provider=None if self.fs.anon else _credentials_of(self.fs),
            client_options={
                **self._limits,
                "allow_http": endpoint.startswith("http:"),
                "allow_invalid_certificates": False,
            },
            retry_config={"max_retries": 0},
        )


def content_type(key: str) -> str:
    """What a browser is to take the object for."""
    return mimetypes.guess_type(key)[0] or "application/octet-stream"


def _credentials_of(fs: AbstractFileSystem) -> S3CredentialProvider:
    async def credentials() -> S3Credential:
        found = await (await fs.session.get_credentials()).get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_HOLD,
        }

    return credentials


async def _region_of(client: Any, bucket: str) -> str:
    """Where a bucket of Amazon's is, as it tells even those who may not look into it."""
    try:
        answer = await client.head_bucket(Bucket=bucket)
    except client.exceptions.ClientError as error:
        answer = error.response
    return str(answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"])


def _split(path: str) -> tuple[str, str]:
    """Bucket and key.

    Raises:
        ValueError: the key is one that obstore would change.
    """
    bucket, _, key = path.partition("/")
    if not key or key != key.strip("/"):
        raise ValueError(key)
    return bucket, key
