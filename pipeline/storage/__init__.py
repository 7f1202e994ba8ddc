"""Bytes in, bytes out: any fsspec URL, retried, put atomically."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem, filesystem
from fsspec.callbacks import Callback

from pipeline.errors import RequestError, RowError, SystemFault
from pipeline.storage import disk, retry
from pipeline.storage.puts import put_all, put_if_absent, put_if_match
from pipeline.storage.s3 import S3
from pipeline.storage.web import REFUSED, is_private, web_system
from pipeline.url import S3_SCHEMES, WEB_SCHEMES, absolute, describe, redact_url, scheme_of, tar_of

# Why a row has no bytes, where nothing is at its address.
ABSENT = "there is no such file"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where one image's bytes lie: a whole object, or ``size`` bytes of it from ``offset``."""

    uri: str
    offset: int | None = None
    size: int | None = None

    @property
    def end(self) -> int | None:
        """Where it ends in the object; None at the object's own end."""
        return None if self.offset is None or self.size is None else self.offset + self.size


class Storage:
    """Access to the places that a job names. Make it in the process that uses it.

    Args:
        options: for S3: endpoint_url, profile, region, anon; whatever else the file system
            takes goes to it unchanged. Credentials come from the environment.
        scratch: a local folder for files that are not whole yet, on the file system of what
            will be written; by default they lie beside the file they become.
        allow_private: whether read() asks hosts that are not on the public internet.
    """

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        scratch: str = "",
        allow_private: bool = False,
    ) -> None:
        self._web = cache(partial(web_system, allow_private))
        self._scratch = scratch
        self._s3 = S3(options or {})
        self._waited_in_vain = False

    def open(self, url: str) -> tuple[AbstractFileSystem, str]:
        """The file system of ``url`` and the path on it; of an image in a tar, the tar's.

        What is done with it is retried by the file system itself, as far as it does that. URLs
        are never chained (``zip://...::s3://...``), so a ``::`` in a name is a name.

        Raises:
            RequestError: no such kind of storage, or its options are wrong.
        """
        return self._open(url, retry.ATTEMPTS)

    def _open(self, url: str, attempts: int) -> tuple[AbstractFileSystem, str]:
        """As open(), but an S3 file system makes so many attempts by itself.

        Where the retries are this module's the file system makes one: layers multiply.
        """
        scheme = scheme_of(url)
        try:
            fs = self._s3.system(attempts) if scheme in S3_SCHEMES else filesystem(scheme)
        except (ImportError, ValueError, TypeError, OSError) as error:
            raise RequestError(f"{redact_url(url)}: {describe(error)}") from error
        return fs, str(fs._strip_protocol(tar_of(url)))

    def patiently(self, url: str, call: Callable[[AbstractFileSystem, str], Any]) -> Any:
        """What ``call`` returns for the file system of ``url`` and its path.

        It is called again after faults that pass; storage that is away is waited for. Raises what
        ``call`` raises at last.
        """

        def attempt() -> Any:
            fs, path = self._open(url, 1)
            try:
                return call(fs, path)
            except Exception as error:
                self._s3.learn_from(error)
                raise

        if scheme_of(url) == "file":
            return retry.retried(attempt)
        try:
            found = retry.retried(attempt, self._patience())
        except Exception as error:
            self._waited_in_vain = retry.passes(error)
            raise
        self._waited_in_vain = False
        return found

    def _patience(self) -> float:
        # Whoever has waited in vain does not wait again: a run that has to stop ends soon.
        return 0.0 if self._waited_in_vain else retry.PATIENCE

    def read(self, sources: Sequence[Source]) -> list[bytes | RowError]:
        """The bytes of each source, or why there are none; faults that pass are retried.

        Raises:
            SystemFault: the storage does not answer at all.
        """
        results: list[bytes | RowError] = [RowError("storage", "not read")] * len(sources)
        began = time.monotonic()
        for index, data in self._read_quickly(sources).items():
            results[index] = data
        waiting = [index for index, got in enumerate(results) if isinstance(got, RowError)]
        attempt, answers = 0, False
        while waiting:
            if attempt:
                retry.back_off(attempt)
            attempt += 1
            tried = self._read_once([sources[index] for index in waiting])
            passing = []
            for index, got in zip(waiting, tried, strict=True):
                if isinstance(got, bytes):
                    results[index] = got
                    continue
                results[index] = _why_unread(got)
                self._s3.learn_from(got)
                if retry.passes(got) and not is_private(got):
                    passing.append(index)
            waiting = passing
            if waiting and retry.tried_enough(attempt, began):
                uri = sources[waiting[0]].uri
                was_away = self._wait_until_it_answers(uri)
                if not was_away and (answers or scheme_of(uri) not in S3_SCHEMES):
                    break
                # It may have been away until a moment ago.
                attempt, answers, began = 0, True, time.monotonic()
        return results

    def _read_quickly(self, sources: Sequence[Source]) -> dict[int, bytes]:
        """What there is on S3, by number of the source, as far as nothing goes wrong."""
        on_s3 = {
            index: source
            for index, source in enumerate(sources)
            if scheme_of(source.uri) in S3_SCHEMES and source.size != 0
        }
        buckets = self._s3.quick() if on_s3 else None
        if buckets is None:
            return {}
        paths = [_s3_path(tar_of(source.uri)) for source in on_s3.values()]
        starts, ends = zip(*((one.offset, one.end) for one in on_s3.values()), strict=True)
        got = buckets.read(paths, starts, ends)
        found = {index: data for index, data in zip(on_s3, got, strict=True) if data is not None}
        self._waited_in_vain &= not found
        return found

    def _wait_until_it_answers(self, url: str) -> bool:
        """Whether the bucket of ``url`` was away; it is back now.

        Raises:
            SystemFault: it stays away.
        """
        patience = self._patience()
        until = time.monotonic() + patience
        attempt = 0
        while outage := self._outage(url):
            attempt += 1
            if attempt == 1 and patience:
                log.warning("%s; waiting for up to %.0f s", outage, patience)
            if time.monotonic() > until:
                self._waited_in_vain = True
                raise SystemFault(f"{outage}; nobody answered for {retry.PATIENCE:.0f} s")
            retry.back_off(attempt)
        self._waited_in_vain = False
        return attempt > 0

    def _outage(self, url: str) -> str:
        """What is wrong if the bucket of ``url`` does not answer, and not only this row's object.

        Only S3 is asked, where all rows are in few places that the job cannot do without.
        """
        if scheme_of(url) not in S3_SCHEMES:
            return ""
        return self._s3.outage(_s3_path(url).partition("/")[0])

    def _read_once(self, sources: Sequence[Source]) -> list[bytes | Exception]:
        results: list[bytes | Exception] = [FileNotFoundError()] * len(sources)
        by_scheme: dict[str, list[int]] = {}
        for index, source in enumerate(sources):
            if source.size == 0 and source.offset is not None:
                results[index] = b""  # there is no such range
                continue
            by_scheme.setdefault(scheme_of(source.uri), []).append(index)
        for indices in by_scheme.values():
            wanted = [sources[index] for index in indices]
            if scheme_of(wanted[0].uri) in WEB_SCHEMES:
                fs = self._web()
            else:
                fs, _ = self._open(wanted[0].uri, 1)
            paths = [str(fs._strip_protocol(tar_of(source.uri))) for source in wanted]
            read = disk.read_ranges if is_local(fs) else fs.cat_ranges
            got = read(paths, [s.offset for s in wanted], [s.end for s in wanted])
            for index, result in zip(indices, got, strict=True):
                results[index] = result
        return results

    def read_one(self, url: str) -> bytes | None:
        """The bytes at ``url``, or None if there is nothing.

        Raises:
            SystemFault: it is there but cannot be read.
        """
        with told("cannot read", url):
            try:
                data: bytes = self.patiently(url, lambda fs, path: fs.cat_file(path))
            except FileNotFoundError:
                return None
            return data

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put each of ``files``, URL to bytes: whole under its name or not at all.

        Raises:
            SystemFault: something could not be written, after retries.
        """
        for url, error in self.try_write(files).items():
            raise SystemFault(f"cannot write {redact_url(url)}: {error}")

    def write_last(self, url: str, data: bytes) -> None:
        """As write(), but when all that was written before can no longer be lost.

        On a local disk that takes as long as the disk takes; to other storage it is so anyway.

        Raises:
            SystemFault: it could not be written.
        """
        if scheme_of(url) != "file":
            self.write({url: data})
            return
        with told("cannot write", url):
            disk.put(absolute(url), data, self._scratch, last=True)

    def try_write(self, files: Mapping[str, bytes], folder: str = "") -> dict[str, RowError]:
        """As write(), but answers which names in ``folder`` something else has taken.

        On a disk ``a.jpg`` cannot be both a file and the folder of ``a.jpg/b.jpg``.
        """
        if not files:
            return {}
        first = next(iter(files))
        with told("cannot write", first):
            if scheme_of(first) == "file":
                return self._put_all_local(files, folder)
            waiting = dict(files)
            if scheme_of(first) in S3_SCHEMES and (buckets := self._s3.quick()):
                by_path = {_s3_path(url): url for url in files}
                for path in buckets.put({path: files[url] for path, url in by_path.items()}):
                    del waiting[by_path[path]]
                    self._waited_in_vain = False
            if waiting:
                self.patiently(first, lambda fs, _: put_all(fs, waiting))
        return {}

    def _put_all_local(self, files: Mapping[str, bytes], folder: str) -> dict[str, RowError]:
        taken = {}
        for url, data in files.items():
            try:
                disk.put(absolute(url), data, self._scratch)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                if not os.path.isdir(folder):
                    raise
                why = "another id has taken its name, or that of its folder"
                taken[url] = RowError("input", why)
        return taken

    def spool(self, url: str) -> BinaryIO:
        """An empty file for what grows, and is put at ``url`` when it is whole.

        Raises:
            OSError: there is no room for it.
        """
        if scheme_of(url) == "file":
            return disk.spool(self._scratch or os.path.dirname(absolute(url)))
        return tempfile.TemporaryFile()

    def write_file(self, url: str, file: BinaryIO, on_part: Callable[[], None]) -> None:
        """Put what is in ``file``, which spool() gave: whole under its name or not at all.

        Args:
            on_part: is called whenever some megabytes of it have gone over the net.

        Raises:
            SystemFault: it could not be written.
        """
        with told("cannot write", url):
            file.flush()
            if scheme_of(url) == "file":
                disk.move(file.name, absolute(url))
            else:
                name = f"/proc/self/fd/{file.fileno()}"
                told_of = Callback(hooks={"part": lambda size, value: on_part()})
                self.patiently(url, lambda fs, path: fs.put_file(name, path, callback=told_of))

    def discard(self, file: BinaryIO) -> None:
        """Close what spool() gave; what has not been put is gone."""
        file.close()
        if isinstance(file.name, str):
            with suppress(OSError):  # it has another name by now
                os.unlink(file.name)

    def create(self, url: str, data: bytes) -> bool:
        """Put ``data`` at ``url`` unless something is there; whether it was put.

        On a disk others may see it half written.

        Raises:
            SystemFault: it could not be written.
        """
        with told("cannot write", url):
            if scheme_of(url) == "file":
                return disk.create(absolute(url), data)
            return bool(self.patiently(url, lambda fs, path: put_if_absent(fs, path, data)))

    def replace(self, url: str, seen: bytes, data: bytes) -> bool:
        """Put ``data`` at ``url`` if ``seen`` is what lies there; whether it was put.

        Only S3 can tell what was written between the look and the put. Elsewhere that is lost.

        Raises:
            SystemFault: it could not be read, or not be written.
        """
        with told("cannot write", url):
            if scheme_of(url) in S3_SCHEMES:
                put = partial(put_if_match, seen=seen, data=data)
                return bool(self.patiently(url, put))
            if self.read_one(url) != seen:
                return False
            self.write({url: data})
            return True

    def delete(self, url: str) -> None:
        """Remove the file, folder or prefix at ``url``, if there is one.

        Raises:
            SystemFault: it cannot be removed.
        """
        with told("cannot remove", url), suppress(FileNotFoundError):
            self.patiently(url, lambda fs, path: fs.rm(path, recursive=True))

    def names(self, url: str) -> list[str]:
        """Names of what lies directly in the folder or prefix ``url``, sorted.

        Raises:
            SystemFault: it cannot be listed.
        """
        found: list[str] = []
        with told("cannot list", url), suppress(FileNotFoundError):
            found = self.patiently(url, lambda fs, path: fs.ls(path, detail=False))
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def check(self, url: str) -> None:
        """See whether the bucket that ``url`` is in answers; ``url`` itself may be missing.

        Raises:
            RequestError: it does not, with what to do.
        """
        fs, path = self._open(url, 1)
        if scheme_of(url) not in S3_SCHEMES:
            return  # the first thing that is read or written will tell
        name, _, key = path.partition("/")
        bucket = f"s3://{name}"
        look = partial(fs.call_s3, "list_objects_v2", Bucket=name, Prefix=key, MaxKeys=1)
        try:
            retry.retried(look)
        except FileNotFoundError as error:
            raise RequestError(f"{bucket} does not exist; create it, or name another") from error
        except TypeError as error:  # an option that nobody knows
            raise RequestError(
                f"--storage-option: {describe(error)}; there are endpoint_url, profile, region "
                "and anon"
            ) from error
        except Exception as error:
            raise RequestError(
                f"{bucket} cannot be read: {describe(error)}. Credentials come from the usual "
                "places (AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws), the address from "
                "--storage-option endpoint_url=... or AWS_ENDPOINT_URL"
            ) from error


def is_local(fs: AbstractFileSystem) -> bool:
    """Whether ``fs`` is this machine's own."""
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def _s3_path(url: str) -> str:
    """``bucket/key``."""
    return url.partition("://")[2]


@contextmanager
def told(what: str, url: str) -> Iterator[None]:
    """Inside, whatever goes wrong is a fault of the system, but for a wrong request."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        raise SystemFault(f"{what} {redact_url(url)}: {describe(error)}") from error


def _why_unread(error: Exception) -> RowError:
    if isinstance(error, FileNotFoundError):
        return RowError("storage", ABSENT)
    if is_private(error):
        return RowError("input", REFUSED)
    if retry.is_wrong(error):  # its text has the address, with whatever stands before an @
        return RowError("input", "there can be no such bucket")
    # Without the name of the file, which the row has: the same reason is to have the same words.
    why = getattr(error, "strerror", None) or describe(error)
    return RowError("storage", f"cannot be read: {why}")
