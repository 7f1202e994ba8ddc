"""The commands, as people see them in a terminal."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from pipeline.errors import RequestError, ServerGone, SystemFault
from pipeline.job import Job, parse_options
from pipeline.output import Output
from pipeline.plan import WHY_OUTDATED
from pipeline.results import Summary
from pipeline.storage import Storage
from pipeline.text import percent, plural, size, span
from pipeline.url import absolute, describe, redact, redact_url

if TYPE_CHECKING:
    from pipeline.verify import Verdict
    from tasks.progress import Snapshot

REASONS_SHOWN = 3
FINDINGS_SHOWN = 20

console = Console(highlight=False, soft_wrap=True)


def run_job(job: Job) -> int:
    """Run a job as a Prefect flow, with a progress bar; the exit code."""
    from pipeline.run import prepare

    prepare(job)  # before anything is started: a wrong request is told at once
    summary = run_flow(job)
    show_summary(summary, job.storage_option)
    return 0 if summary.succeeded else 1


def run_flow(job: Job) -> Summary:
    """Run the stylize flow in this process, against the configured Prefect API or one of its own.

    Raises:
        RequestError: a row of the manifest is wrong. SystemFault: the run could not begin.
    """
    # The terminal shows a bar and warnings instead; in the UI all is there.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    import httpx
    from prefect.settings import get_current_settings

    from flows.server import prefect_api, wait_until_recorded
    from pipeline.workers import worker_ahead

    own_server = not get_current_settings().api.url
    starting = console.status("starting Prefect")
    ahead = worker_ahead() if job.runner == "local" else nullcontext()
    with _signals() as insist, starting, ahead, prefect_api() as address:
        from flows.stylize import stylize
        from tasks.progress import watcher

        starting.stop()
        console.print(f"watch it at [link={address}/runs]{address}/runs[/link]")
        with _progress_bar(job.style) as show, _warnings():

            def look(snapshot: Snapshot) -> None:
                insist()
                show(snapshot)

            token = watcher.set(look)
            try:
                state = stylize(job, return_state=True)
            except httpx.TransportError as error:
                raise ServerGone(
                    f"the Prefect server at {address} has gone ({describe(error)}); "
                    "what is done is in the ledger, and the same command carries on"
                ) from error
            finally:
                watcher.reset(token)
        outcome = state.result(raise_on_failure=False)
        if own_server and isinstance(outcome, Summary) and state.state_details.flow_run_id:
            tasks = outcome.shards + 2  # the plan, and the end
            wait_until_recorded(state.state_details.flow_run_id, tasks)
    if isinstance(outcome, Summary):
        return outcome
    raise outcome if isinstance(outcome, Exception) else SystemFault(str(state.message))


@contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Inside, Ctrl-C, SIGTERM and a closed terminal raise KeyboardInterrupt; what is yielded too.

    Python drops an exception that comes in the midst of a callback of its own, such as a
    finalizer; a signal must not be lost that way.
    """
    pressed = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def insist() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    stopping = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not so below nohup
        stopping.append(signal.SIGHUP)
    before = {one: signal.signal(one, on_signal) for one in stopping}
    try:
        yield insist
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class _Warnings(logging.Handler):
    """Shows each warning once, above the bar."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = redact(record.getMessage())
        # Of Prefect's own loggers only what workers say.
        ours = hasattr(record, "shard") or not record.name.startswith("prefect")
        if ours and text not in self._shown:
            self._shown.add(text)
            console.print(f"[yellow]{escape(text)}[/]")


@contextmanager
def _warnings() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("pipeline", "flows", "prefect.task_runs")]
    handler = _Warnings()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextmanager
def _progress_bar(style: str) -> Iterator[Callable[[Snapshot], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(escape(style), total=None, text="planning")

        def show(snapshot: Snapshot) -> None:
            finished = snapshot.done + snapshot.failed
            text = f"{finished:,}/{snapshot.rows:,}"
            if snapshot.rate:
                text += f"  {snapshot.rate:,.0f} images/s"
            if snapshot.remaining:
                text += f"  {span(snapshot.remaining)} left"
            if snapshot.failed:
                text += f"  [red]{snapshot.failed:,} failed[/red]"
            progress.update(bar, total=snapshot.rows, completed=finished, text=text)

        yield show


def show_summary(summary: Summary, storage_option: tuple[str, ...] = ()) -> None:
    """Say what a run has done, where it is, and what to do next with these options."""
    out = escape(redact_url(summary.out))
    colour = "green" if summary.succeeded else "red"
    console.print(f"\n[bold {colour}]{escape(str(summary))}[/]")
    if summary.new_done + summary.new_failed:
        rate = f"{summary.images_per_second:,.1f} images/s"
        console.print(f"  {span(summary.seconds)}, {rate}, {size(summary.output_bytes)} written")
    folder = escape(redact_url(summary.folder))
    console.print(f"  results in {folder}, ledger in {out}/metadata")
    _show_reasons(summary.reasons, {one.message: one.id for one in reversed(summary.failures)})
    if summary.failed > summary.new_failed:
        status = _command("status", summary.out, storage_option)
        console.print(f"  why images failed before: {escape(status)}")
    if summary.too_many_failed:
        console.print(
            f"  more than {percent(summary.max_failed)} of the rows failed (--max-failed)"
        )
    command = _command("report", summary.out, storage_option)
    console.print(f"  a page of pictures: {escape(command)}")


def _command(name: str, out: str, storage_option: tuple[str, ...], *flags: str) -> str:
    """What to type next, as a shell wants it."""
    options = [word for option in storage_option for word in ("--storage-option", option)]
    return shlex.join(["restyle", name, redact_url(out), *flags, *options])


def _show_reasons(reasons: Counter[str], examples: Mapping[str, str]) -> None:
    """Why images failed. ``examples``: for some reasons the id of an image."""
    if reasons:
        console.print("  why images failed:")
        for reason, count in reasons.most_common(REASONS_SHOWN):
            text = f"  {count:>7,}  {reason}"
            if reason in examples:
                text += f": {examples[reason]}" + (", …" if count > 1 else "")
            console.print(escape(text))
        if (more := len(reasons) - REASONS_SHOWN) > 0:
            console.print(f"           and {plural(more, 'reason')} more: see the ledger")


def show_plan(job: Job) -> int:
    """Say what a run would do; the exit code."""
    from pipeline.run import prepare, preview
    from pipeline.speed import estimate

    request = prepare(job)
    with console.status("reading the manifest"):
        plan = preview(request)
    seconds, measured = estimate(request.job, plan)
    if plan.unknown_sizes == plan.to_do and plan.to_do:
        amount = "unknown: the manifest does not tell"
    else:
        amount = size(plan.left_bytes)
        if plan.unknown_sizes:
            amount += f", and {plural(plan.unknown_sizes, 'row')} of unknown size"
    shards = ""
    if plan.shards and job.runner == "local":  # elsewhere they depend on the cluster
        shards = f"{plan.shards:,} of up to {plural(plan.largest, 'row')}"
    guess = "" if measured else " (a guess until a run of half a minute here)"
    table = Table.grid(padding=(0, 2))
    for label, text in (
        ("rows", f"{plan.rows:,}"),
        ("done before", f"{plan.done + plan.outdated:,}"),
        ("failed before", f"{plan.failed:,}" if plan.failed else ""),
        ("left to do", f"{plan.to_do:,}"),
        ("to be updated", f"{plan.outdated:,}: {WHY_OUTDATED}" if plan.outdated else ""),
        ("to be read", amount if plan.to_do else ""),
        ("shards", shards),
        ("time", f"about {span(seconds)}{guess}" if seconds else "unknown" if plan.to_do else ""),
    ):
        if text:
            table.add_row(label, text)
    console.print(table)
    return 0


def show_status(out: str, as_json: bool, storage_option: tuple[str, ...]) -> int:
    """Say how far a job is, from its ledger; the exit code."""
    from pipeline.status import read_status

    out = absolute(out)
    status = read_status(_storage(out, storage_option), out)
    if as_json:
        figures = ("done", "failed", "left", "output_bytes", "rate", "began", "last", "at_work",
                   "succeeded", "styles", "reasons")  # fmt: skip
        told = {name: getattr(status, name) for name in figures}
        print(json.dumps({"rows": status.job.ledger_rows, **told}, indent=2))
        return 0
    text = f"{status.done:,} of {status.job.ledger_rows:,} stylized"
    if status.failed:
        text += f", {status.failed:,} failed"
    if status.job.gone:
        text += f", {status.job.gone:,} of earlier runs only"
    if status.left:
        text += f", {status.left:,} left"
    console.print(f"[bold]{text}[/]{', complete' if status.succeeded else ''}")
    if run := status.last_run():
        seconds = max(run) - min(run) + 1
        line = f"  {status.rate:,.1f} images/s at the end of the last {span(seconds)} of work"
        if status.left and status.rate and status.at_work:
            line += f", {span(status.left / status.rate)} to go at that rate"
        console.print(line)
    if status.at_work:
        console.print(f"  at work: {escape(status.at_work)}")
    else:
        began = f"; the last one began at {status.began} UTC" if status.began else ""
        last = f", the last image was done at {status.last}" if status.last else ""
        console.print(f"  no run is at work{began}{last}")
    folder = f"{escape(redact_url(out))}/{status.job.folder}"
    console.print(f"  {size(status.output_bytes)} in {folder}")
    _show_reasons(status.reasons, {})
    return 0


def make_report(out: str, storage_option: tuple[str, ...]) -> int:
    """Write the page of a job and say where it is; the exit code."""
    from pipeline.report import write_report

    out = absolute(out)
    job = Output(_storage(out, storage_option), out).require_job().job
    # The originals are where the job was allowed to find them.
    allow_private = job.get("allow_private", False)
    url = write_report(_storage(out, storage_option, allow_private), out)
    console.print(redact_url(url))
    return 0


def verify_results(out: str, repair: bool, as_json: bool, storage_option: tuple[str, ...]) -> int:
    """Compare the results with the ledger, and mend what is wrong; the exit code."""
    from pipeline.run import prepare, preview
    from pipeline.verify import not_mended, put_aside, verify

    out = absolute(out)
    storage = _storage(out, storage_option)
    with console.status("verifying") as at_work:
        verdict = verify(storage, out, lambda rows: at_work.update(f"verifying: {rows:,} rows"))
    if as_json:
        print(json.dumps(asdict(verdict), indent=2))
    else:
        _show_verdict(verdict, out)
    if not verdict.wrong:
        return 0
    if not repair:
        if not as_json:
            command = _command("verify", out, storage_option, "--repair")
            console.print(f"  {escape(command)} does them again")
        return 1
    # The folder may have been moved, and have been found with other options than it was made with.
    here = {"out": out, "storage_option": storage_option or verdict.job.get("storage_option", ())}
    job = Job.model_validate(verdict.job | here | {"overwrite": False})
    preview(prepare(job))  # what cannot be done again is not put aside
    put_aside(storage, out, verdict.wrong)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        code = run_job(job)
    if left := not_mended(storage, out):
        shown = ", ".join(left[:FINDINGS_SHOWN])
        console.print(
            f"[bold red]{plural(len(left), 'row')} not done again[/]: no longer in SOURCE, or "
            f"beyond --limit: {escape(shown)}"
        )
    return code or (1 if left else 0)


def _show_verdict(verdict: Verdict, out: str) -> None:
    """Say what is wrong with the results in ``out``."""
    kinds = Counter(finding.kind for finding in verdict.findings)
    good = verdict.done - kinds["missing"] - kinds["damaged"] - kinds["doubled"]
    text = f"{good:,} of {plural(verdict.done, 'result')} as they were written"
    text += "".join(f", {count:,} {kind}" for kind, count in kinds.items())
    console.print(f"[bold {'red' if verdict.wrong else 'green'}]{text}[/]")
    console.print(
        f"  {size(verdict.output_bytes)} in {escape(redact_url(out))}; of "
        f"{plural(verdict.rows + verdict.gone, 'row')} {verdict.failed:,} failed and "
        f"{verdict.left:,} are left"
    )
    _show_first([f"{one.kind:>8}  {one.path}: {one.why}" for one in verdict.findings])


def prune_results(out: str, yes: bool, as_json: bool, storage_option: tuple[str, ...]) -> int:
    """Say what a job has no use for, and remove it if ``yes``; the exit code."""
    from pipeline.prune import find_gone, prune

    out = absolute(out)
    storage = _storage(out, storage_option)
    with console.status("comparing with SOURCE"):
        gone = (prune if yes else find_gone)(storage, out)
    if as_json:
        told = {"rows": gone.rows, "kept": gone.kept, "files": gone.files, "bytes": gone.bytes}
        print(json.dumps(told, indent=2))
    else:
        console.print(
            f"[bold]{gone.rows:,} of {plural(gone.rows + gone.kept, 'row')}[/] are not asked for "
            f"any more by the last run, of {escape(redact_url(gone.job.source))}; "
            f"{plural(len(gone.files), 'file')}, {size(gone.bytes)}, of no other row"
        )
        _show_first(gone.files)
        if gone.rows or gone.files:
            command = _command("prune", out, storage_option, "--yes")
            console.print("  removed" if yes else f"  {escape(command)} removes them")
    return 0


def _show_first(lines: Sequence[str]) -> None:
    for line in lines[:FINDINGS_SHOWN]:
        console.print(f"  {escape(line)}")
    if len(lines) > FINDINGS_SHOWN:
        console.print(f"  and {len(lines) - FINDINGS_SHOWN:,} more (--json has all)")


def _storage(out: str, storage_option: tuple[str, ...], allow_private: bool = False) -> Storage:
    """Storage for the folder of a job, which answers."""
    try:
        storage = Storage(parse_options(storage_option), allow_private=allow_private)
    except ValueError as error:
        raise RequestError(f"--storage-option: {error}") from error
    storage.check(out)
    return storage


def run_bench(images: str, count: int, against: list[Path], plot: str, as_json: bool) -> int:
    """Measure and print; the exit code."""
    from pipeline import bench

    if missing := [script for script in against if not script.is_file()]:
        raise RequestError(f"--against {missing[0]}: there is no such file")
    if plot and (Path(plot).is_dir() or not Path(plot).parent.is_dir()):
        raise RequestError(f"--plot {plot}: give a file in a folder that exists")
    with console.status("measuring") as at_work:
        figures = bench.measure(
            images, count, against, lambda what: at_work.update(f"measuring: {what}")
        )
    if plot:
        Path(plot).write_text(bench.plot(figures))
    if as_json:
        print(json.dumps(asdict(figures) | {"share": figures.share}, indent=2))
        return 0
    table = Table.grid(padding=(0, 2))
    table.columns = [Column(), Column(justify="right"), Column()]
    for label, rate in (
        ("decode alone", figures.decode),
        ("network alone", figures.network),
        ("encode alone", figures.encode),
        ("what these allow", figures.allowed),
    ):
        table.add_row(label, f"{rate:,.1f} images/s")
    reached = f"{figures.share:.0%} of that; the {figures.limit} is the limit"
    table.add_row("end to end", f"{figures.end_to_end:,.1f} images/s", reached)
    for rival in figures.rivals:
        compared = f"restyle is {rival.ratio:.1f} times as fast"
        table.add_row(escape(rival.name), f"{rival.rate:,.1f} images/s", compared)
    console.print(f"{figures.size}x{figures.size} JPEG to JPEG, {figures.machine}")
    console.print(table)
    return 0
