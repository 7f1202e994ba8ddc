"""The output folder: what stands in it besides the results and the ledger."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.job import IDENTITY, Job
from pipeline.storage import Storage, join, redact
from pipeline.styles.pack import Pack

RECORDED_VERSIONS = ("torch", "pillow", "numpy", "pyarrow")


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

    def read_job(self) -> dict[str, Any] | None:
        """job.json, or None if there is none.

        Raises:
            RequestError: there is one that cannot be read.
        """
        data = self._storage.read_one(join(self.url, "job.json"))
        if data is None:
            return None
        try:
            return dict(json.loads(data))
        except ValueError as error:
            raise RequestError(f"{redact(self.url)}/job.json is not JSON: {error}") from error

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
        if earlier is None or job.overwrite:
            return
        if earlier["job_digest"] != job.digest(pack.digest):
            raise RequestError(
                f"{redact(self.url)} holds results of other settings "
                f"({_differences(earlier, job)}); choose another --out, or add --overwrite to "
                "replace them"
            )
        for name, kind in earlier["carried"].items():
            index = carried.get_field_index(name)
            if index >= 0 and str(carried.field(index).type) != kind:
                raise RequestError(
                    f"column '{name}' is {carried.field(index).type} in this manifest, but "
                    f"{kind} in the ledger of {redact(self.url)}"
                )

    def begin(self, job: Job, pack: Pack, carried: pa.Schema, rows: int) -> None:
        """Write job.json; the results are not complete from here on."""
        self._storage.delete(join(self.url, "_SUCCESS"))
        content = {
            "job": job.model_dump(mode="json") | {"source": redact(job.source)},
            "job_digest": job.digest(pack.digest),
            "model_digest": pack.digest,
            "rows": rows,
            "carried": {field.name: str(field.type) for field in carried},
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in RECORDED_VERSIONS},
        }
        self._write("job.json", json.dumps(content, indent=2, ensure_ascii=False))

    def finish(self, success: bool) -> None:
        """With ``success``, say so; then clear up."""
        if success:
            self._write("_SUCCESS", "")
        self._storage.delete(self.scratch)

    def _write(self, name: str, text: str) -> None:
        self._storage.write({join(self.url, name): text.encode()})


def _differences(earlier: Mapping[str, Any], job: Job) -> str:
    before, after = earlier["job"], job.model_dump(mode="json")
    different = [
        f"{name} {before.get(name)}, now {after[name]}"
        for name in sorted(IDENTITY)
        if before.get(name) != after[name]
    ]
    return ", ".join(different) or "another network"
