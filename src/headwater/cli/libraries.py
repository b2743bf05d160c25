"""`headwater libraries`: list, show, create and delete them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.text import Text

from headwater.cli import output
from headwater.cli.client import DEFAULT_URL, BadInput, Client, Url, segment

app = typer.Typer(help="List, show, create and delete libraries.", invoke_without_command=True)
Json = Annotated[bool, typer.Option("--json", help="The server's answer as JSON.")]


@app.callback()
def listing(context: typer.Context, as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List, show, create and delete libraries. Without a command: list them."""
    if context.invoked_subcommand is not None:
        return
    with Client(url) as client:
        found = list(client.pages("/v1/libraries", "libraries"))
    if as_json:
        for library in found:
            _json(library)
        return
    if not found:
        output.note("No libraries yet; `headwater libraries create NAME` makes one.")
        return
    counts = ["documents", "chunks"]
    if any(library.get("pending") for library in found):
        counts.append("pending")
    table = output.table(
        "name",
        *counts,
        "embedder",
        "dimension",
        "metric",
        "updated",
        right=(*counts, "dimension"),
    )
    for library in found:
        table.add_row(
            Text(output.clean(library["name"]), style="bold"),
            *(f"{library[count]:,}" for count in counts),
            library["embedder"],
            str(library["dimension"]),
            library["metric"],
            str(library["updated_at"])[:19].replace("T", " "),
        )
    output.out.print(table)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="1 to 128 characters, no slash.")],
    description: Annotated[str | None, typer.Option(help="What is in it.")] = None,
    embedder: Annotated[
        str | None, typer.Option(help="static (the default), or none: clients send vectors.")
    ] = None,
    dimension: Annotated[int | None, typer.Option(help="Needed with --embedder none.")] = None,
    metric: Annotated[
        Literal["cosine", "dot", "euclidean"] | None, typer.Option(help="How vectors compare.")
    ] = None,
    chunk_size: Annotated[int | None, typer.Option(help="In characters.")] = None,
    chunk_overlap: Annotated[int | None, typer.Option(help="In characters.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="How vectors are kept in memory: none (float32) or int8.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Whose words keyword search stems: en, de, …, or none.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object.")] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Create a library."""
    fields: dict[str, Any] = {
        "name": name,
        "description": description,
        "embedder": embedder,
        "dimension": dimension,
        "metric": metric,
        "chunk_size": chunk_size,
        "chunk_overlap": chunk_overlap,
        "language": language,
        "quantization": quantization,
    }
    if metadata is not None:
        try:
            fields["metadata"] = msgspec.json.decode(metadata, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadInput(f"--metadata must be a JSON object ({error})") from error
    body = {field: value for field, value in fields.items() if value is not None}
    with Client(url) as client:
        _show(client.request("POST", "/v1/libraries", json=body), as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name or id.")],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show a library with its figures."""
    with Client(url) as client:
        _show(client.request("GET", f"/v1/libraries/{segment(name)}"), as_json=as_json)


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="A name or id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a library and everything in it."""
    path = f"/v1/libraries/{segment(name)}"
    with Client(url) as client:
        library = client.request("GET", path)
        title = output.clean(library["name"])
        documents = output.counted(library["documents"], "document")
        if not yes:
            typer.confirm(f"Delete {title} with {documents}?", abort=True, err=True)
        client.request("DELETE", path)
    output.out.print(Text(f"Deleted {title} with {documents}."))


def _json(value: Any) -> None:
    output.line(msgspec.json.encode(value).decode())


def _show(library: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _json(library)
        return
    table = output.table("field", "value")
    table.show_header = False
    for field, value in library.items():
        if isinstance(value, dict) and field == "index":
            for name, part in value.items():
                table.add_row(f"index.{name}", _plain(part))
        else:
            table.add_row(field, _plain(value))
    output.out.print(table)


def _plain(value: Any) -> Text:
    match value:
        case None:
            return Text("–", style="dim")
        case bool():
            return Text(str(value).lower())
        case int():
            return Text(f"{value:,}")
        case str():
            return Text(output.clean(value))
        case _:
            return Text(msgspec.json.encode(value).decode())
