"""`headwater doctor`: checks the store and the views against each other.

Opens the data folder itself, so it also works when the server does not start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from headwater.cli import options, output
from headwater.cli.client import BadInput


def doctor(
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the store to examine.")
    ] = None,
) -> None:
    """Check a data folder. Exit code 1 when something is wrong."""
    chosen = options.load(data=data)
    if not chosen.data.is_dir():
        raise BadInput(f"{chosen.data} is no folder; name the server's data folder with --data")
    from headwater.doctor import examine
    from headwater.server import configure_logs

    configure_logs("warning")
    findings = examine(chosen)
    table = output.table("check", "", "detail")
    for name, ok, detail in findings:
        mark = Text("ok", style="green") if ok else Text("wrong", style="bold red")
        table.add_row(Text(output.clean(name)), mark, Text(output.clean(detail)))
    output.out.print(table)
    wrong = sum(not ok for _, ok, _ in findings)
    if wrong:
        output.failure("wrong", f"{wrong} of {len(findings)} checks failed")
        raise typer.Exit(1)
