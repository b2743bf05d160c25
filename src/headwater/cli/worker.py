"""`headwater worker`: run jobs beside the server, on the same data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from headwater.cli import options, output


def worker(
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the server's store.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=0, max=64, help="Jobs to run at once.")] = None,
    types: Annotated[
        str | None, typer.Option(help="Types to take, separated by commas; * for all.")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least severe log line that is written."),
    ] = None,
) -> None:
    """Run jobs until interrupted; then give back those that run, for others to go on with."""
    chosen = options.load(data=data, jobs__size=size, jobs__types=types, log_level=log_level)
    from headwater.worker import work

    if output.err.is_terminal:
        output.err.print(
            Text.assemble(
                ("Headwater worker", "bold cyan"),
                f": {output.counted(chosen.jobs.size, 'job')} at once from {chosen.data.resolve()}",
                ("; Ctrl-C stops it", "dim"),
            ),
            soft_wrap=True,
        )
    work(chosen)
