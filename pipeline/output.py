"""The output folder: what stands in it besides the results and the ledger."""

from __future__ import annotations

import platform
import re
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from pipeline.errors import RequestError
from pipeline.job import FOLDERS, IDENTITY, Job
from pipeline.storage import Storage
from pipeline.styles.mix import styles_in
from pipeline.styles.pack import RIGHTS, Pack
from pipeline.url import join, redact_url

RECORDED_VERSIONS = (
    "restyle",
    "torch",
    "numba",
    "pillow",
    "simplejpeg",
    "pi-heif",
    "numpy",
    "pyarrow",
)


class JobRecord(BaseModel):
    """What job.json holds.

    Args:
        job: the job's settings. rows: of it, when it was last planned. gone: rows that the
            ledger had besides, of these settings: they were asked for earlier only.
        began: when the last run did, seconds since the epoch; 0: before there was this.
        carried: types of the manifest's own columns, of earlier runs' too. styles: of each that
            the job names, what its card says of its painting and of its rights.
    """

    job: dict[str, Any]
    job_digest: str
    model_digest: str
    rows: int
    gone: int = 0
    began: int = 0
    carried: dict[str, str]
    styles: dict[str, dict[str, str]]
    versions: dict[str, str]

    @property
    def folder(self) -> str:
        """Where its results lie, below the output folder."""
        return FOLDERS[self.job.get("layout", "files")]

    @property
    def ledger_rows(self) -> int:
        """Rows that the ledger has of these settings when nothing is left to do."""
        return self.rows + self.gone


class Output:
    """OUT.

    Args:
        url: of the folder, in full.
    """

    def __init__(self, storage: Storage, url: str) -> None:
        self._storage = storage
        self.url = url
        # Plans and files that are not whole yet; gone when a run has ended well.
        self.scratch = join(url, ".restyle")

    def read_job(self) -> JobRecord | None:
        """job.json, or None if there is none.

        Raises:
            RequestError: there is one that cannot be read.
        """
        data = self._storage.read_one(join(self.url, "job.json"))
        try:
            return None if data is None else JobRecord.model_validate_json(data)
        except ValidationError as error:
            raise RequestError(
                f"{redact_url(self.url)}/job.json was not written by restyle, or is damaged: "
                "choose another --out"
            ) from error

    def require_job(self) -> JobRecord:
        """job.json.

        Raises:
            RequestError: there is none, or it cannot be read.
        """
        record = self.read_job()
        if record is None:
            raise RequestError(
                f"{redact_url(self.url)} is not the output folder of a job: it has no job.json"
            )
        return record

    def succeeded(self) -> bool:
        """Whether the last run ended well."""
        return self._storage.read_one(join(self.url, "_SUCCESS")) is not None

    def check(self, job: Job, pack: Pack, carried: pa.Schema) -> None:
        """See whether the results of ``job`` may go here.

        Raises:
            RequestError: results of other settings are here already, or the manifest's own
                columns have other types than theirs.
        """
        earlier = self.read_job()
        if earlier is None:
            if self._storage.names(job.folder):
                raise RequestError(
                    f"{redact_url(job.folder)} holds files that no job has made, and results "
                    "might replace them; choose another --out"
                )
            return
        if earlier.job_digest != job.digest(pack.digest) and not job.overwrite:
            raise RequestError(
                f"{redact_url(self.url)} holds results of other settings "
                f"({_differences(earlier, job)}); choose another --out, or add --overwrite to "
                "replace them"
            )
        for name, kind in earlier.carried.items():
            index = carried.get_field_index(name)
            if index >= 0 and str(carried.field(index).type) != _as_kept(kind):
                raise RequestError(
                    f"column '{name}' is {carried.field(index).type} in this manifest, but "
                    f"{kind} in the ledger of {redact_url(self.url)}; choose another --out"
                )

    def begin(self, job: Job, pack: Pack, carried: pa.Schema, rows: int, gone: int) -> None:
        """Write job.json; the results are not complete from here on.

        Args:
            rows, gone: as in JobRecord.
        """
        self._storage.delete(join(self.url, "_SUCCESS"))
        earlier = self.read_job()
        record = JobRecord(
            job=job.model_dump(mode="json") | {"source": redact_url(job.source)},
            job_digest=job.digest(pack.digest),
            model_digest=pack.digest,
            rows=rows,
            gone=gone,
            began=int(time.time()),
            carried=(earlier.carried if earlier else {})
            | {field.name: str(field.type) for field in carried},
            styles={
                card.name: {key: getattr(card, key) for key in RIGHTS}
                for card in pack.cards
                if card.name in styles_in(job.style)
            },
            versions=_versions(),
        )
        self._write("job.json", record.model_dump_json(indent=2))

    def recount(self, rows: int, gone: int) -> None:
        """Say how many rows there are by now.

        Args:
            rows, gone: as in JobRecord.
        """
        record = self.require_job().model_copy(update={"rows": rows, "gone": gone})
        self._write("job.json", record.model_dump_json(indent=2))

    def finish(self, success: bool) -> None:
        """With ``success``, say so; then clear up."""
        if success:
            self._write("_SUCCESS", "")
        self._storage.delete(self.scratch)

    def abandon(self) -> None:
        """Remove the folder, if nothing is in it."""
        with suppress(OSError):  # not empty, or not on a disk
            Path(self.url).rmdir()

    def _write(self, name: str, text: str) -> None:
        self._storage.write_last(join(self.url, name), text.encode())


def _as_kept(kind: str) -> str:
    """What a type is called of which earlier versions wrote down what the manifest called it."""
    for earlier, now in (
        (r"indices=\w+", "indices=int32"),
        (r"(timestamp|time32)\[s", r"\1[ms"),
        ("^large_(string|binary)$", r"\1"),
    ):
        kind = re.sub(earlier, now, kind)
    return kind


def _differences(earlier: JobRecord, job: Job) -> str:
    defaults = {name: field.default for name, field in Job.model_fields.items()}
    before, after = defaults | earlier.job, job.model_dump(mode="json")
    different = [
        f"{name} {before[name]}, now {after[name]}"
        for name in sorted(IDENTITY)
        if before[name] != after[name]
    ]
    return ", ".join(different) or "another network"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED_VERSIONS:
        with suppress(PackageNotFoundError):  # without Numba it runs, too
            found[name] = version(name)
    return found
