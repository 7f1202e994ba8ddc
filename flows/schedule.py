"""A job that is done again and again: a Prefect deployment with a schedule, served from here."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.server import prefect_api
from flows.stylize import stylize
from flows.terminal import console
from pipeline.errors import RequestError
from pipeline.job import Job
from pipeline.run import prepare
from pipeline.url import redact_url
from tasks.names import last_part, tags_of

# A run that comes due while the last one is at work has nothing to do that the next one will not.
ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)


def serve_job(job: Job, cron: str, timezone: str, name: str) -> None:
    """Make a deployment of the job, and do its runs in this process' children until it is ended.

    With PREFECT_API_URL set the deployment is that server's, otherwise a server is started that
    ends with this process.

    Raises:
        RequestError: the job, the schedule or the time zone cannot be.
    """
    job = prepare(job).job
    try:
        ZoneInfo(timezone)
        schedule = Cron(cron, timezone=timezone)
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise RequestError(f"--cron '{cron}' --timezone {timezone}: {error}") from error
    name = name or last_part(job.out)
    what = f"{redact_url(job.source)} to {redact_url(job.out)}"
    with prefect_api() as address:
        console.print(
            f"'{cron}' ({timezone}): {what} in the style {job.style}\n"
            f"watch it, or run it at once, at {address}/deployments; Ctrl-C ends it"
        )
        runner = _Runner(name)
        runner.add_flow(
            stylize,
            name,
            schedule=schedule,
            parameters={"job": job.model_dump(mode="json", exclude_defaults=True)},
            description=f"{what}, what is new or has changed",
            tags=tags_of(job),
            concurrency_limit=ONE_AT_A_TIME,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        with suppress(KeyboardInterrupt):
            asyncio.run(runner.start())


class _Runner(Runner):
    """Prefect's, but on SIGTERM it ends the run that is at work, and then itself.

    Prefect's own never awaits what shall end its runs (3.8.8): they outlive it, and the server.
    """

    def handle_sigterm(self, *args: object, **kwargs: object) -> None:
        self.execute_in_background(self.astop)
