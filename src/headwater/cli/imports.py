"""`headwater import`: files, folders and pipes into a library.

Keeps no state of its own: an import is resumed by running it again. Documents keep the ids they
bring, so what is stored already comes back as `unchanged`; `--ids line` gives lines without an id
the same one in every run.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import TaskID
from rich.text import Text

from headwater.cli import output
from headwater.cli.client import DEFAULT_URL, Client, ClientError, Problem, Url, segment
from headwater.cli.records import Ids
from headwater.cli.sender import Sender, Tally
from headwater.cli.sources import Columns, Source, open_source


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-|FOLDER",
            help="NDJSON (.ndjson, .jsonl, .json), CSV (.csv, .tsv), each also with .gz; "
            "- for NDJSON on standard input; or a folder of .txt and .md files.",
        ),
    ],
    library: Annotated[str, typer.Option("--library", "-l", help="Where to: a name or id.")],
    create: Annotated[bool, typer.Option("--create", help="Make the library if need be.")] = False,
    text_column: Annotated[str, typer.Option(help="CSV column with the text.")] = "text",
    id_column: Annotated[
        str | None, typer.Option(help="CSV column with the id; `id` when there is one.")
    ] = None,
    title_column: Annotated[
        str | None, typer.Option(help="CSV column with the title; `title` when there is one.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between CSV fields.")] = None,
    encoding: Annotated[str, typer.Option(help="Of a CSV file.")] = "utf-8",
    ids: Annotated[
        Ids,
        typer.Option(
            help="Ids for documents without one: random, or `file:line`, the same in every run.",
        ),
    ] = "random",
    retry_for: Annotated[
        float, typer.Option(help="Seconds to go on reconnecting without progress.")
    ] = 60.0,
    url: Url = DEFAULT_URL,
) -> None:
    """Stream documents into a library.

    CSV columns that are neither text, id nor title become metadata. A file of a folder gets its
    relative path as id and its first heading, or its name, as title.

    A cut connection is taken up again by itself. After an interruption run the same command again:
    documents with ids that are stored already are left as they are. Exit code 1 when a document
    was refused.
    """
    columns = Columns(text_column, id_column, title_column, delimiter)
    with (
        open_source(source, ids=ids, columns=columns, encoding=encoding) as opened,
        Client(url) as client,
    ):
        _find(client, library, create=create)
        tally = _send(client, library, opened, retry_for)
    _report(tally, library)
    if tally.failed:
        raise typer.Exit(1)


def _find(client: Client, library: str, *, create: bool) -> None:
    try:
        client.request("GET", f"/v1/libraries/{segment(library)}")
    except Problem as problem:
        if problem.code != "library_not_found":
            raise
        if not create:
            problem.detail += "; --create makes it"
            raise
        client.request("POST", "/v1/libraries", json={"name": library})
        output.note(f"Made library {library}.")


def _send(client: Client, library: str, source: Source, retry_for: float) -> Tally:
    with output.progress() as bar:
        task: TaskID = bar.add_task(output.clean(source.name), total=source.total, documents=0)
        sender = Sender(
            client,
            library,
            retry_for=retry_for,
            on_progress=lambda tally: bar.update(
                task, completed=tally.done, documents=tally.settled
            ),
            on_retry=lambda error, seconds: output.note(
                f"{error.reason}; trying again in {seconds:.1f} s"
            ),
        )
        try:
            tally = sender.send(source.items)
        except (ClientError, KeyboardInterrupt):
            _stopped(sender.tally)
            raise
        bar.update(task, completed=source.total or tally.done, total=source.total or tally.done)
    return tally


def _stopped(tally: Tally) -> None:
    where = f" through {tally.last_place}" if tally.last_place else ""
    output.note(
        f"Stopped: {output.counted(tally.stored, 'document')} stored{where}. "
        "Run the same command again to go on (needs ids in the source, or --ids line)."
    )


def _report(tally: Tally, library: str) -> None:
    for failure in tally.failures:
        output.err.print(
            Text.assemble(
                (failure.place, "bold"),
                "  ",
                (failure.code, "red"),
                "  ",
                output.clean(failure.detail),
            ),
            soft_wrap=True,
        )
    if tally.failed > len(tally.failures):
        output.err.print(f"… and {tally.failed - len(tally.failures):,} more", style="red")
    parts = [f"{tally.created:,} created", f"{tally.updated:,} updated"]
    parts.append(f"{tally.unchanged:,} unchanged")
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.reconnects:
        parts.append(output.counted(tally.reconnects, "reconnect"))
    output.out.print(Text(f"{output.clean(library)}: {', '.join(parts)}"), soft_wrap=True)
