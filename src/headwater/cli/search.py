"""`headwater search`: ask a library from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from headwater.cli import output
from headwater.cli.client import DEFAULT_URL, Client, Url, segment

NAME_WIDTH = 44
KEY_WIDTH = 36


class Mode(StrEnum):
    HYBRID = "hybrid"
    VECTOR = "vector"
    KEYWORD = "keyword"


def search(
    library: Annotated[str, typer.Argument(help="A name or id.")],
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many results.")] = 10,
    mode: Annotated[
        Mode | None, typer.Option(help="By words, by meaning, or by both (the default).")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="Metadata that hits must have, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The server's answer as JSON.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Find passages by meaning and by words."""
    wish: dict[str, Any] = {"query": query, "k": k}
    if mode is not None:
        wish["mode"] = mode.value
    if filter is not None:
        try:
            wish["filter"] = msgspec.json.decode(filter)
        except msgspec.DecodeError as error:
            raise typer.BadParameter(f"{filter!r} is not JSON: {error}") from error
    with Client(url) as client:
        answer = find(client, library, wish)
    if as_json:
        output.line(msgspec.json.encode(answer).decode())
        return
    hits = answer["results"]
    for made in hit_lines(hits, ids=True):
        output.out.print(made)
    if degraded := answer.get("degraded"):
        output.note(f"by words alone: {degraded}")
    found = output.counted(len(hits), "result")
    output.note(f"{found} in {answer['took_ms']:.1f} ms, as of {answer['cursor']}")


def find(client: Client, library: str, wish: dict[str, Any]) -> dict[str, Any]:
    path = f"/v1/libraries/{segment(library)}/search"
    return client.request("POST", path, json=wish)


def hit_lines(hits: list[dict[str, Any]], *, ids: bool) -> Iterator[Text]:
    """Each hit on one line as wide as the terminal: score, title, the passage's first line.

    With `ids` the chunk's id stands in front of the title.
    """
    names = [output.clean(hit.get("title") or hit["document_id"]) for hit in hits]
    name_width = min(NAME_WIDTH, max(map(len, names), default=0))
    keys = [output.clean(hit["chunk_id"]) for hit in hits] if ids else []
    key_width = min(KEY_WIDTH, max(map(len, keys), default=0))
    for index, hit in enumerate(hits):
        made = Text(f"{hit['score']:6.3f}", style="green", no_wrap=True, end="\n")
        if ids:
            made.append("  ").append(_fitted(keys[index], key_width, "dim"))
        made.append("  ").append(_fitted(names[index], name_width, "bold"))
        made.append("  ").append(output.first_line(hit.get("text") or ""), style="default")
        made.truncate(output.out.width, overflow="ellipsis")
        yield made


def _fitted(text: str, width: int, style: str) -> Text:
    made = Text(text, style=style)
    made.truncate(width, overflow="ellipsis", pad=True)
    return made
