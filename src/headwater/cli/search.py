"""`headwater search`: ask a library from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from headwater.cli import output
from headwater.cli.client import DEFAULT_URL, Client, Url, segment


def search(
    library: Annotated[str, typer.Argument(help="A name or id.")],
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="The server's answer as JSON.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Find passages by meaning."""
    with Client(url) as client:
        answer = find(client, library, query, k)
    if as_json:
        output.line(msgspec.json.encode(answer).decode())
        return
    hits = answer["results"]
    if hits:
        output.out.print(hit_table(hits, ids=True))
    output.note(f"{len(hits)} results in {answer['took_ms']:.1f} ms, as of {answer['cursor']}")


def find(client: Client, library: str, query: str, k: int) -> dict[str, Any]:
    path = f"/v1/libraries/{segment(library)}/search"
    return client.request("POST", path, json={"query": query, "k": k})


def hit_table(hits: list[dict[str, Any]], *, ids: bool) -> Table:
    """Score, title, first line, each hit on one line; with `ids` the chunk's id in front."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="green", no_wrap=True)
    if ids:
        table.add_column(style="dim", no_wrap=True, max_width=32, overflow="ellipsis")
    table.add_column(style="bold", no_wrap=True, max_width=40, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for hit in hits:
        cells = [Text(output.clean(hit.get("title") or hit["document_id"]))]
        if ids:
            cells.insert(0, Text(output.clean(hit["chunk_id"])))
        summary = Text(output.first_line(hit.get("text") or ""))
        table.add_row(Text(f"{hit['score']:.3f}"), *cells, summary)
    return table
