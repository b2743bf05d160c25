"""What every command prints with: two consoles and the few shapes they share.

Results go to `out` (stdout), everything about the run to `err` (stderr), so that output can be
piped. Must never let text from documents reach a terminal with its control characters.
"""

from __future__ import annotations

import re
import sys

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 100
"""Columns when the output is no terminal."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH, soft_wrap=False)
    return console


out = _console(stderr=False)
err = _console(stderr=True)


def clean(text: str) -> str:
    """`text` on one line, without control characters."""
    return _CONTROLS.sub(" ", text).strip()


def first_line(text: str) -> str:
    """The first line of `text` that says something, cleaned."""
    for line in text.splitlines():
        if any(character.isalnum() for character in line):
            return clean(line)
    return clean(text)


def counted(number: int, noun: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def failure(code: str, detail: str) -> None:
    """One red line: what went wrong."""
    err.print(
        Text.assemble((f"{clean(code)}: ", "bold red"), (clean(detail), "red")), soft_wrap=True
    )


def note(text: str) -> None:
    err.print(Text(clean(text), style="dim"), soft_wrap=True)


def line(text: str) -> None:
    """A line of machine-readable output, written as it is and at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(*columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """An open table; the columns named in `right` hold numbers, those in `whole` are not broken."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in whole,
        )
    return made


class RateColumn(ProgressColumn):
    """Documents a second, from the task's own count; the bar may count bytes."""

    def render(self, task: Task) -> Text:
        documents = int(task.fields.get("documents", task.completed))
        seconds = task.finished_time or task.elapsed or 0.0
        rate = f"{documents / seconds:,.0f}/s" if seconds > 0.05 else "–/s"
        return Text(f"{documents:,} documents  {rate}", style="cyan")


def progress() -> Progress:
    """A progress bar with a rate on stderr; silent when that is no terminal.

    The bar may count bytes or documents; tasks carry their documents as a field.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        console=err,
        disable=not err.is_terminal,
    )
