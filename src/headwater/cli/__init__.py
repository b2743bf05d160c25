"""The `headwater` command.

Sits on top of everything. `serve`, `worker` and `doctor` open a data folder; every other command
speaks HTTP to a running server through `client.py`, so that what it shows is what any client sees.
Must never import server parts before a command needs them: `headwater --help` has to be quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from headwater import __version__
from headwater.cli import (
    demo,
    doctor,
    exports,
    imports,
    jobs,
    libraries,
    output,
    search,
    serve,
    settings,
    tail,
    watch,
    worker,
)
from headwater.cli.client import ClientError
from headwater.errors import HeadwaterError

app = typer.Typer(
    help="Headwater: a real-time vector search server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        output.out.print(f"headwater {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version.")
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("import")(imports.import_)
app.command("export")(exports.export)
app.command("search")(search.search)
app.command("tail")(tail.tail)
app.command("watch")(watch.watch)
app.add_typer(libraries.app, name="libraries")
app.add_typer(jobs.app, name="jobs")
app.command("worker")(worker.worker)
app.command("doctor")(doctor.doctor)
app.command("settings")(settings.settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="headwater")
    except ClientError as error:
        output.failure(error.code, error.detail)
    except HeadwaterError as error:
        output.failure(error.code, error.detail)
    sys.exit(1)
