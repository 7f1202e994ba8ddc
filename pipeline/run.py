"""What a run does before and after its shards. Knows no scheduler."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.claim import Claim
from pipeline.devices import check_device, devices_for, shard_rows
from pipeline.errors import RequestError, SystemFault
from pipeline.job import Job
from pipeline.layouts.packed import sweep
from pipeline.layouts.parquet import IMAGE
from pipeline.ledger import RESERVED, Ledger
from pipeline.manifest import Manifest, open_manifest
from pipeline.manifest.listings import IMAGE_SUFFIXES
from pipeline.output import Output
from pipeline.plan import Plan, Shard, check_styles, plan_shards
from pipeline.results import Summary
from pipeline.spool import ShardRef, write_plan
from pipeline.storage import Storage
from pipeline.styles.library import choose_pack, packs_at
from pipeline.styles.mix import styles_in
from pipeline.styles.pack import Pack
from pipeline.url import absolute, join, redact_url


@dataclass(frozen=True)
class Request:
    """A job that has been looked at: its places answer, its style is known.

    Args:
        file_bytes: of a photo's file, on average over the first of them, if that is known.
    """

    job: Job
    storage: Storage
    pack: Pack
    manifest: Manifest
    file_bytes: float | None
    output: Output
    claim: Claim

    @property
    def digest(self) -> str:
        """Of the job: what its results depend on."""
        return self.job.digest(self.pack.digest)


def open_storage(job: Job) -> Storage:
    """Storage for a job whose places are in full."""
    out = absolute(job.out)
    scratch = join(out, ".restyle", "partial") if out.startswith("/") else ""
    return Storage(job.options, scratch, job.allow_private)


def prepare(job: Job) -> Request:
    """Check all that can be checked at once, before anything is written.

    Raises:
        RequestError: what is wrong, and what to do.
    """
    job = job.resolved()
    check_device(job)
    storage = open_storage(job)
    pack = choose_pack(packs_at(job.pack, storage), job.style)
    if job.require_rights:
        _check_rights(pack, job)
    _check_out(job.out)
    storage.check(job.out)
    manifest = open_manifest(
        storage,
        job.source,
        out=job.out,
        reserved=RESERVED | {IMAGE.name} if job.layout == "parquet" else RESERVED,
        allow_schemes=job.allow_scheme,
    )
    first = next(manifest.read(), None)
    if first is None:
        raise RequestError(f"{manifest.name} has no images")
    check_styles(first.slice(0, job.limit), job, _styles_for(job, pack), manifest.name, 1, set())
    output = Output(storage, job.out)
    output.check(job, pack, manifest.carried)
    file_bytes = pc.mean(first.column("source_size")).as_py()
    return Request(job, storage, pack, manifest, file_bytes, output, Claim(storage, job.out))


def _check_out(out: str) -> None:
    """See whether ``out`` can be the folder of results, by its name and by this machine's disks."""
    if not out.startswith("/"):
        if any(sign in out for sign in "*?["):  # wildcards to whatever clears up there
            raise RequestError(f"--out {redact_url(out)}: name it without *, ? and [")
        return
    if os.path.isfile(out):
        raise RequestError(f"--out {out} is a file; name a folder")
    if not os.path.isdir(out) and os.path.splitext(out)[1].lower() in IMAGE_SUFFIXES:
        raise RequestError(
            f"--out {out} is to be a folder, for results and what is known of "
            "them, but has the name of an image; name it otherwise"
        )
    folder = out
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise RequestError(f"--out {out}: {folder} is no folder; choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"--out {out}: {folder} cannot be written to; choose another folder")


def _check_rights(pack: Pack, job: Job) -> None:
    for card in pack.cards:
        if card.name in styles_in(job.style) and not card.rights:
            raise RequestError(
                f"--require-rights: the card of '{card.name}' does not say under what rights it "
                "may be used; restyle styles add FILE --rights ... tells"
            )


def _styles_for(job: Job, pack: Pack) -> list[str]:
    """What the manifest's ``style`` column may name."""
    return [card.name for card in pack.cards if card.rights or not job.require_rights]


def preview(request: Request) -> Plan:
    """What a run would do; writes nothing."""
    plan = Plan()
    for _ in _shards(request, plan):
        pass
    return plan


def begin(request: Request, devices: Sequence[str] = ()) -> tuple[Plan, list[ShardRef]]:
    """Plan the run and write the plan down for the workers; the folder is this run's then.

    Args:
        devices: of the workers that there will be; otherwise those of this machine.

    Raises:
        RequestError: another run has the folder, or a row is wrong; then nothing is left behind.
    """
    plan = Plan()
    request.claim.take()
    try:
        folder, shards = join(request.output.scratch, "plan"), _shards(request, plan, devices)
        refs = write_plan(request.storage, folder, shards, request.claim.token)
        request.output.begin(
            request.job, request.pack, request.manifest.carried, plan.rows, plan.gone
        )
    except RequestError:
        request.output.finish(success=False)
        request.claim.release()
        request.output.abandon()
        raise
    except BaseException:
        request.claim.release()
        raise
    return plan, refs


def _shards(request: Request, plan: Plan, devices: Sequence[str] = ()) -> Iterator[Shard]:
    job = request.job
    devices = devices or devices_for(job, sys.maxsize)
    return plan_shards(
        request.manifest,
        Ledger(request.storage, job.out),
        job,
        request.digest,
        _styles_for(job, request.pack),
        plan,
        shard_rows(job, devices, request.file_bytes),
        len(devices),
    )


def end(request: Request, summary: Summary) -> None:
    """Clear up after the last shard; the folder is marked complete if the run succeeded.

    Raises:
        SystemFault: the folder cannot be written, or is another run's by now.
    """
    try:
        request.claim.check()
        sweep(request.storage, request.job.out)
        request.output.finish(summary.succeeded)
    except SystemFault:
        if not summary.stopped:  # otherwise what has stopped the run may well be what is so here
            raise
    request.claim.release()
