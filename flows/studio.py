"""The commands about making styles, as people see them in a terminal."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from flows.terminal import console
from pipeline.errors import RequestError
from pipeline.folder import make_folder
from pipeline.storage import Storage, told
from pipeline.styles.library import choose_pack, packs_at
from pipeline.text import plural
from pipeline.url import redact_url

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig
    from pipeline.training.loop import Step


def show_styles(place: str) -> int:
    """List the styles at a place; the exit code."""
    table = Table.grid(padding=(0, 2))
    for pack in packs_at(place, Storage()):
        for card in pack.cards:
            table.add_row(f"[bold]{card.name}[/]", card.title, card.artist, card.year, card.rights)
    console.print(table)
    return 0


def show_style(name: str, place: str) -> int:
    """Print a style's card as JSON; the exit code."""
    pack = choose_pack(packs_at(place, Storage()), name)
    card = next((card for card in pack.cards if card.name == name), None)
    if card is None:
        raise RequestError(f"'{name}' is a blend; give one style")
    console.print_json(json.dumps(asdict(card) | {"pack": pack.path.name, "digest": pack.digest}))
    return 0


def add_style(file: str, to: str, said: dict[str, str]) -> int:
    """Check a pack, draw what it does, and put it where styles are found; the exit code."""
    _wait_calmly()
    from pipeline.styles.add import add_pack

    with console.status("trying it out"):
        added = add_pack(Path(file).expanduser(), to, said, Storage())
    names = ", ".join(card.name for card in added.pack.cards)
    console.print(f"[bold green]{escape(names)}[/] in {escape(redact_url(added.place))}")
    console.print(f"  {escape(redact_url(added.sheet))} shows what it does")
    for card in added.pack.cards:
        if not card.rights:
            console.print(
                f"  '{escape(card.name)}' has no rights on its card (--rights): "
                "jobs with --require-rights refuse it"
            )
    pack = f" --pack {escape(redact_url(to))}" if to else ""
    console.print(f"  restyle run PHOTOS --out OUT --style {escape(added.pack.names[0])}{pack}")
    return 0


def train_pack(config: TrainConfig) -> int:
    """Train a style pack, with a progress bar; the exit code."""
    _wait_calmly()
    from pipeline.training.loop import Trainer

    with console.status("reading photos, paintings and the feature network"):
        trainer = Trainer(config)
    console.print(
        f"{plural(len(config.images), 'style')}, {plural(len(trainer.content), 'photo')}, on "
        f"{trainer.device}; after a stop the same command goes on from the last checkpoint"
    )

    def draw_sheet() -> None:
        if not console.is_terminal:  # where the bar does not show
            console.print(f"step {trainer.step:,} of {config.all_steps:,}")
        sheet = trainer.preview()
        with told("cannot write", str(trainer.sheet)):
            sheet.save(trainer.sheet)

    columns = (TextColumn("step {task.completed:,}"), BarColumn(bar_width=None),
               TextColumn("{task.fields[text]}"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=config.all_steps, completed=trainer.step, text="")

        def show(step: Step) -> None:
            text = f"style {step.style:.2f}  content {step.content:.2f}"
            progress.update(bar, completed=step.number, text=text)

        trainer.run(show, draw_sheet)
    draw_sheet()
    pack, sheet = escape(str(trainer.pack)), escape(str(trainer.sheet))
    console.print(
        f"[bold green]{pack}[/] is ready, {sheet} shows it\n"
        f"  restyle run PHOTOS --out OUT --pack {pack} --style {config.names[0]}"
    )
    return 0


def evaluate_pack(
    path: str, paintings: str, content: str, features: str, size: int, sheets: str, as_json: bool,
    save: bool, device: str,
) -> int:  # fmt: skip
    """Score the styles of a pack, and draw their sheets; the exit code."""
    _wait_calmly()
    from pipeline.styles.pack import copy_pack, find_pack
    from pipeline.training.evaluate import evaluate
    from pipeline.training.scores import Scores

    pack = find_pack(path)
    if sheets:
        given = [Path(place).expanduser().resolve() for place in (paintings, content)]
        folder = make_folder(sheets)
        if folder.resolve() in given:
            raise RequestError(f"--sheets {sheets} has what is scored; give another folder")
    columns = [field.name for field in fields(Scores)]
    table = Table("style", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    cards = []
    with console.status("scoring") as at_work:
        for done in evaluate(pack, paintings, content, features, size, device):
            name, figures = done.card.name, asdict(done.scores)
            at_work.update(f"scored {name}")
            table.add_row(name, *(f"{value:.3f}" for value in figures.values()))
            quality = {key: round(value, 4) for key, value in figures.items()}
            quality |= {"judge": Path(features).name, "size": size, "photos": done.photos}
            cards.append(replace(done.card, quality=quality))
            if sheets:
                done.sheet.save(folder / f"{name}.jpg", quality=90)
    if save:
        copy_pack(pack, pack.path, cards)
    if as_json:
        print(json.dumps({card.name: card.quality for card in cards}, indent=2))
        return 0
    console.print(table)
    if sheets:
        console.print(f"the sheets are in {escape(sheets)}")
    return 0


def _wait_calmly() -> None:
    # torch's threads spin while they wait; where something else runs, that is 30 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
