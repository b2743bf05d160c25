"""`headwater demo`: a library of real text and a few searches, in half a minute.

The README's first example: works with nothing else running. Uses the server at the URL when one
answers, else starts its own for as long as the demo takes.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from headwater.cli import output
from headwater.cli.child import server
from headwater.cli.client import DEFAULT_URL, Client, ClientError, Problem, Unreachable
from headwater.cli.records import Record
from headwater.cli.search import find, hit_lines
from headwater.cli.sender import Sender, Tally

LIBRARY = "python-docs"
QUERIES = (
    "wait for a process to finish",
    "turn an object into bytes",
    "pick random elements",
    "compress a file",
    "is it a leap year",
)
HITS = 3


def demo(
    url: Annotated[
        str | None,
        typer.Option(envvar="HEADWATER_URL", help="Use the server there, and only that one."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Start a server on this folder and keep the folder."),
    ] = None,
) -> None:
    """Stream the docstrings of Python's standard library in and search them by meaning.

    Uses the server on port 8000 when there is one; else starts one in a temporary folder and stops
    it in the end. Makes the library python-docs anew.
    """
    with _server(url, data) as (address, own), Client(address) as client:
        tally, seconds = _fill(client)
        output.out.print(
            Text.assemble(
                (f"{tally.stored:,} documents", "bold"),
                f" streamed in, embedded, stored and searchable in {seconds:.1f} s ",
                (f"({tally.stored / seconds:,.0f} documents/s)", "cyan"),
            )
        )
        find(client, LIBRARY, _wish(QUERIES[0]))  # loads the view: the times shown are without
        for query in QUERIES:
            answer = find(client, LIBRARY, _wish(query))
            output.out.print()
            output.out.print(
                Text.assemble((f"“{query}”", "bold cyan"), (f"  {answer['took_ms']:.1f} ms", "dim"))
            )
            hits = [{**hit, "text": _docstring(hit["text"])} for hit in answer["results"]]
            for made in hit_lines(hits, ids=False):
                output.out.print(made)
        output.out.print()
        _hints(address, own=own, data=data)


@contextmanager
def _server(url: str | None, data: Path | None) -> Iterator[tuple[str, bool]]:
    """The address of a server, and whether it is ours alone."""
    if data is None:
        address = url or DEFAULT_URL
        with Client(address, read_timeout=5.0) as client:
            try:
                version = client.request("GET", "/health").get("version", "?")
            except ClientError as error:
                if url is not None or not isinstance(error, Unreachable | Problem):
                    raise
            else:
                output.out.print(f"Headwater {version} answers at {address}.")
                yield address, False
                return
    with tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder:
        place = data or Path(folder)
        kind = "" if data else "temporary "
        output.out.print(Text(f"Starting a server on the {kind}folder {place} …"))
        with server(place) as address:
            yield address, True


def _fill(client: Client) -> tuple[Tally, float]:
    from headwater.cli.corpus import docstrings

    with output.err.status("Gathering the docstrings of the standard library"):
        documents = list(docstrings())
    try:
        client.request("DELETE", f"/v1/libraries/{LIBRARY}")
    except Problem as problem:
        if problem.code != "library_not_found":
            raise
    description = "Docstrings of the Python standard library"
    client.request("POST", "/v1/libraries", json={"name": LIBRARY, "description": description})
    with output.progress() as bar:
        task = bar.add_task(LIBRARY, total=len(documents), documents=0)
        sender = Sender(
            client,
            LIBRARY,
            on_progress=lambda tally: bar.update(
                task, completed=tally.settled, documents=tally.settled
            ),
        )
        started = time.perf_counter()
        tally = sender.send(_records(documents))
        seconds = time.perf_counter() - started
    if tally.failed:
        failure = tally.failures[0]
        raise Problem(failure.code, f"{tally.failed} documents failed, first: {failure.detail}")
    return tally, seconds


def _records(documents: Iterable[dict[str, Any]]) -> Iterator[Record]:
    for document in documents:
        yield Record(msgspec.json.encode(document), str(document["id"]))


def _docstring(text: str) -> str:
    """A passage without the signature in front of it."""
    signature, _, rest = text.partition("\n\n")
    return rest if rest and "(" in signature and "\n" not in signature else text


def _hints(address: str, *, own: bool, data: Path | None) -> None:
    if own:
        where = shlex.quote(str(data)) if data else None
        output.out.print("That server stops now. To go on with one that stays:")
        start = f"headwater serve --data {where}" if where else "headwater serve"
        after = "" if where else "   # then, in another terminal: headwater demo"
        _command(start + after)
        address = DEFAULT_URL
    else:
        output.out.print("Try next:")
    _command(f"curl -N '{address}/v1/events/stream'   # every change, as it happens")
    _command(
        f"curl '{address}/v1/libraries/{LIBRARY}/search' -H 'Content-Type: application/json'"
        ' -d \'{"query": "parse a date", "k": 3}\''
    )
    _command(f"curl -N '{address}/v1/libraries/{LIBRARY}/documents/stream' | head -3")


def _command(text: str) -> None:
    output.out.print(Text(f"  {text}", style="green"), soft_wrap=True)


def _wish(query: str) -> dict[str, Any]:
    """By meaning alone: that is what is shown here."""
    return {"query": query, "k": HITS, "mode": "vector"}
