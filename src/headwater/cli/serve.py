"""`headwater serve`: run the server in the foreground."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from headwater import __version__
from headwater.cli import options, output


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the store; made when missing.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Server processes on this data folder.")
    ] = None,
    durability: Annotated[
        Literal["full", "normal"] | None,
        typer.Option(help="full: a power cut takes nothing; normal: it can take seconds."),
    ] = None,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Listen beyond this machine without API keys.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least severe log line that is written."),
    ] = None,
) -> None:
    """Serve until interrupted. Flags win over HEADWATER_… variables; see `headwater settings`."""
    chosen = options.load(
        host=host,
        port=port,
        data=data,
        workers=workers,
        store__durability=durability,
        allow_open=allow_open or None,
        log_level=log_level,
    )
    gc.disable()  # nothing that is imported is garbage: looking for it takes a tenth of the start
    from headwater.server import serve as run

    gc.enable()
    name = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    where = f"http://{name}:{chosen.port}" if chosen.port else f"a free port of {chosen.host}"
    if output.err.is_terminal:  # elsewhere the log's own first line says it, for machines
        output.err.print(
            Text.assemble(
                ("Headwater", "bold cyan"),
                f" {__version__} on ",
                (where, "bold"),
                f", data in {chosen.data.resolve()}",
                (f", documentation at {where}/docs" if chosen.port else ""),
                ("; Ctrl-C stops it", "dim"),
            ),
            soft_wrap=True,
        )
    run(chosen)
