"""The command line. Imports only what a command needs, so that help comes at once."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter
from pydantic import ValidationError

from pipeline.errors import RequestError, ServerGone, SystemFault
from pipeline.job import Job, Settings
from pipeline.training.config import TrainConfig, TrainSettings

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def _shown(value: Any) -> Any:
    """A default, if it is worth a place in the help."""
    return None if value in (None, False, "", ()) else value


app = App(
    name="restyle",
    help="Stylize whole collections of images.",
    version=lambda: version("restyle"),
    default_parameter=Parameter(negative=(), show_default=_shown),
    suppress_keyboard_interrupt=False,  # main() has something to say
    result_action="return_value",  # and returns the exit code
)
app.meta.suppress_keyboard_interrupt = False
app.meta.result_action = "return_value"
styles_app = App(name="styles", help="What is on board.")
app.command(styles_app)

JobOptions = Annotated[Settings, Parameter(name="*")]
TrainOptions = Annotated[TrainSettings, Parameter(name="*")]
StorageOption = Annotated[
    tuple[str, ...], Parameter(help="key=value for S3: endpoint_url, profile, region, anon.")
]


@app.command
def run(source: str, /, *, settings: JobOptions) -> int:
    """Stylize the images of SOURCE. The same command again does what is left.

    Parameters
    ----------
    source
        A manifest (.parquet, .csv, .jsonl, .txt); a folder, prefix or glob of images; a .tar.
    """
    from flows.terminal import run_job

    return run_job(Job(source=source, **settings.model_dump()))


@app.command
def plan(source: str, /, *, settings: JobOptions) -> int:
    """Say what run would do: rows, bytes, shards, what is done, time. Does nothing.

    Parameters
    ----------
    source
        As for run.
    """
    from flows.terminal import show_plan

    return show_plan(Job(source=source, **settings.model_dump()))


@app.command
def schedule(
    source: str,
    /,
    *,
    cron: str,
    timezone: str = "UTC",
    name: str = "",
    settings: JobOptions,
) -> int:
    """Do the job again and again: what is new or has changed, one run at a time.

    Parameters
    ----------
    source
        As for run.
    cron
        When: minute, hour, day of the month, month, day of the week; "0 3 * * *" is every night.
    timezone
        Of the hours: Europe/Berlin.
    name
        What to call the schedule; otherwise by the last part of OUT.
    """
    from flows.schedule import serve_job

    serve_job(Job(source=source, **settings.model_dump()), cron, timezone, name)
    return DONE


@app.command
def status(out: str, /, *, json: bool = False, storage_option: StorageOption = ()) -> int:
    """How far a job is, how fast, and what failed; from its output folder alone.

    Parameters
    ----------
    out
        The output folder of a job that runs or has run.
    json
        Print it as JSON.
    """
    from flows.terminal import show_status

    return show_status(out, json, storage_option)


@app.command
def report(out: str, /, *, storage_option: StorageOption = ()) -> int:
    """Write OUT/report.html: originals beside results, throughput, failures.

    Parameters
    ----------
    out
        The output folder of a job that runs or has run.
    """
    from flows.terminal import make_report

    return make_report(out, storage_option)


@app.command
def verify(
    out: str, /, *, repair: bool = False, json: bool = False, storage_option: StorageOption = ()
) -> int:
    """Read all results again and compare them with the ledger.

    Parameters
    ----------
    out
        The output folder of a job that has run.
    repair
        Do again what is missing or damaged, with whatever else the job has left to do.
    json
        Print what was found as JSON.
    """
    from flows.terminal import verify_results

    return verify_results(out, repair, json, storage_option)


@app.command
def prune(
    out: str, /, *, yes: bool = False, json: bool = False, storage_option: StorageOption = ()
) -> int:
    """Find results of photos that SOURCE does not have any more, and files of no row.

    Parameters
    ----------
    out
        The output folder of a job that has run.
    yes
        Remove them.
    json
        Print what was found as JSON.
    """
    from flows.terminal import prune_results

    return prune_results(out, yes, json, storage_option)


@styles_app.command(name="list")
def list_styles(*, pack: str = "") -> int:
    """The styles on board: the shipped ones and those that you added.

    Parameters
    ----------
    pack
        A pack or a folder of packs, a path or a URL, instead.
    """
    from flows.studio import show_styles

    return show_styles(pack)


@styles_app.command
def show(name: str, /, *, pack: str = "") -> int:
    """All there is to know of a style.

    Parameters
    ----------
    name
        As it is called in the list.
    pack
        A pack or a folder of packs, a path or a URL, to look in instead.
    """
    from flows.studio import show_style

    return show_style(name, pack)


@styles_app.command
def add(
    file: str,
    /,
    *,
    to: str = "",
    name: str = "",
    title: str = "",
    artist: str = "",
    year: str = "",
    rights: str = "",
    source: str = "",
) -> int:
    """Take in a pack, or a checkpoint of the PyTorch examples' fast_neural_style.

    Parameters
    ----------
    file
        A .safetensors pack, or a .pth checkpoint.
    to
        A folder or URL of packs, for --pack; otherwise your own folder, where run looks.
    name
        What to call the style, if the pack has one; otherwise as it is called, or by its file.
    title
        Of the painting, for the card. So are artist, year, rights and source.
    """
    from flows.studio import add_style

    said = {"name": name, "title": title, "artist": artist, "year": year, "rights": rights,
            "source": source}  # fmt: skip
    return add_style(file, to, {key: text for key, text in said.items() if text})


@app.command
def train(*images: str, settings: TrainOptions) -> int:
    """Teach a new network the styles of some paintings.

    Parameters
    ----------
    images
        Paintings, one for each style.
    """
    from flows.studio import train_pack

    return train_pack(TrainConfig(images=images, **settings.model_dump()))


@app.command
def evaluate(
    pack: str = "",
    /,
    *,
    paintings: str,
    content: str,
    features: str = "vgg16",
    size: int = 256,
    sheets: str = "",
    json: bool = False,
    save: bool = False,
    device: str = "auto",
) -> int:
    """Score the styles of a pack: how much painting, how much photo, how calm.

    Parameters
    ----------
    pack
        A pack of your own instead of the shipped one.
    paintings
        Folder with the paintings that the styles were trained on.
    content
        Photos: a folder, a manifest or a prefix, best such as no training has seen; 20 count.
    features
        The judge, best another than in training: vgg16, vgg19 or a safetensors file.
    size
        Side of the middle squares of the photos, pixels, a multiple of 4.
    sheets
        Folder for a contact sheet of each style.
    json
        Print figures as JSON.
    save
        Write the figures into the pack's cards.
    device
        As in run.
    """
    from flows.studio import evaluate_pack

    return evaluate_pack(pack, paintings, content, features, size, sheets, json, save, device)


@app.command
def bench(
    *,
    images: str = "",
    count: int = 2048,
    against: tuple[Path, ...] = (),
    plot: str = "",
    json: bool = False,
) -> int:
    """How fast restyle is here, stage by stage and end to end, and what limits it.

    Parameters
    ----------
    images
        A folder of photos to use instead of synthetic ones.
    count
        How many images to run end to end.
    against
        A Python program to compare with, started as PROGRAM PHOTOS OUT; measured from its first
        result on. tests/benchmarks/ has two.
    plot
        An SVG file to draw the figures in.
    json
        Print figures as JSON.
    """
    from flows.terminal import run_bench

    return run_bench(images, count, list(against), plot, json)


@app.command
def demo(out: str = "demo", /) -> int:
    """Stylize some sample photos in every style and make a page of them.

    Parameters
    ----------
    out
        Folder for the photos and the results.
    """
    from flows.demo import run_demo

    return run_demo(out)


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="TOML file with any of the options; flags win over it.")
    ] = None,
) -> Any:
    app.config = _settings_in(config) if config else ()
    try:
        return app(tokens, exit_on_error=False, print_error=False)
    finally:
        app.config = ()


def _settings_in(config: Path) -> cyclopts.config.Dict:
    if not config.is_file():
        raise RequestError(f"--config {config}: there is no such file")
    try:
        settings = tomllib.loads(config.read_text("utf-8-sig"))  # Windows begins it with a mark
    except (OSError, ValueError) as error:
        raise RequestError(f"--config {config} cannot be read: {error}") from error
    for name in settings:
        if name in app or isinstance(settings[name], dict):
            raise RequestError(
                f"--config {config}: '{name}' is no option; options stand in it by themselves, in "
                "no section"
            )
    return cyclopts.config.Dict(settings, use_commands_as_keys=False, source=str(config))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(app.meta(tokens, exit_on_error=False, print_error=False) or DONE)
    except (cyclopts.CycloptsError, ValidationError) as error:
        return _say(_option_errors(error), WRONG)
    except RequestError as error:
        return _say(str(error), WRONG)
    except ServerGone as error:
        _say(str(error), FAILED)
        sys.stdout.flush()
        os._exit(FAILED)  # Prefect would go on for minutes to send it what waits
    except SystemFault as error:
        return _say(str(error), FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; the same command carries on", INTERRUPTED)


def _say(message: str, code: int) -> int:
    print(f"restyle: {message}", file=sys.stderr)
    return code


def _option_errors(error: Exception) -> str:
    """What is wrong with the options, each in one line, in the words of the command line."""
    if isinstance(error, cyclopts.UnusedCliTokensError):
        more = error.unused_tokens or []
        return f"'{more[0]}' is one word too many (of {len(more)}); a glob wants quotes around it"
    cause = error if isinstance(error, ValidationError) else error.__cause__
    if not isinstance(cause, ValidationError):
        return str(error).rstrip(".")
    lines = {}
    for problem in cause.errors(include_url=False):
        name = "--" + str(problem["loc"][0]).replace("_", "-") if problem["loc"] else ""
        name = "SOURCE" if name == "--source" else name
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            said = "is required"
        lines[name] = f"{name}: {said}" if name else said
    return "\nrestyle: ".join(lines.values())
