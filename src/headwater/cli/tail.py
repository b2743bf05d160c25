"""`headwater tail`: every change as it happens, one line each.

Keeps the cursor of the last event and goes on from there after every break, so that nothing is
missed or shown twice. Stops by itself only when the server no longer has what comes next (exit
code 3): going on silently would hide a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from headwater.cli import output
from headwater.cli.backoff import Backoff
from headwater.cli.client import DEFAULT_URL, Client, ClientError, Problem, Url, segment
from headwater.cli.feed import EventFeed
from headwater.cli.sse import ServerEvent

EXPIRED = 3
"""Exit code when the feed cannot go on from the cursor."""

_STYLES = {"added": "green", "created": "green", "updated": "yellow", "deleted": "red"}


class Expired(ClientError):
    code = "cursor_expired"


def tail(
    library: Annotated[
        list[str] | None, typer.Option("--library", "-l", help="Only these; may be repeated.")
    ] = None,
    types: Annotated[
        str, typer.Option(help="Comma-separated event types, as `document.*,library.deleted`.")
    ] = "*",
    after: Annotated[
        str, typer.Option(help="Where to begin: a cursor, `beginning` or `now`.")
    ] = "now",
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many events.")
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option("--filter", help='Only documents that meet it: `{"year":{"$gte":2020}}`.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Each event as its JSON.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Follow the changes. Reconnects by itself; exit code 3 when the cursor has expired."""
    with Client(url) as client:
        feed = Feed(client, libraries=library or [], types=types, after=after, filter=filter)
        names = Names(client)
        shown = 0
        try:
            for event in feed.events():
                if as_json:
                    output.line(event.data)
                else:
                    output.out.print(
                        describe(msgspec.json.decode(event.data), names), soft_wrap=True
                    )
                shown += 1
                if shown == count:
                    return
        except Expired as expired:
            output.failure(expired.code, expired.detail)
            raise typer.Exit(EXPIRED) from None
        except KeyboardInterrupt:
            if feed.cursor is not None:
                output.note(f"Stopped; go on with --after {feed.cursor}")


class Feed(EventFeed):
    """Stored changes, each once, in order, for ever."""

    def __init__(
        self,
        client: Client,
        *,
        libraries: list[str],
        types: str,
        after: str,
        filter: str | None = None,
        backoff: Backoff | None = None,
        say: Callable[[str], None] = output.note,
    ) -> None:
        params = [("types", types), *(("library_id", name) for name in libraries)]
        if filter is not None:
            params.append(("filter", filter))
        super().__init__(
            client,
            "GET",
            "/v1/events/stream",
            params=params,
            after=after,
            backoff=backoff,
            say=say,
        )

    def events(self) -> Iterator[ServerEvent]:
        """Raises `Expired` and final `Problem`s."""
        for event in self.all():
            if event.type == "reset":
                raise _expired(msgspec.json.decode(event.data))
            yield event

    def gives_up(self, error: ClientError) -> ClientError:
        expired = isinstance(error, Problem) and error.code == "cursor_expired"
        return Expired(error.detail) if expired else error


def _expired(data: dict[str, Any]) -> Expired:
    earliest = data.get("earliest")
    hint = f" The earliest cursor is {earliest}: --after {earliest}" if earliest else ""
    return Expired(f"{data.get('detail', 'the log no longer reaches back that far')}.{hint}")


class Names:
    """Libraries' names by id, asked for once each."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, str] = {}

    def of(self, event: dict[str, Any]) -> str:
        library_id = event.get("library_id")
        if library_id is None:
            return ""
        if event["type"].startswith("library.") and (name := event["data"].get("name")):
            self._known[library_id] = name
        if library_id not in self._known:
            try:
                found = self._client.request("GET", f"/v1/libraries/{segment(library_id)}")
                self._known[library_id] = found["name"]
            except ClientError:
                self._known[library_id] = library_id[:8]  # deleted since, or no time for it now
        return self._known[library_id]


def describe(event: dict[str, Any], names: Names) -> Text:
    """One line: local time, type, library, and what the data says."""
    kind, data = event["type"], event["data"]
    style = _STYLES.get(kind.rpartition(".")[2], "magenta")
    made = Text.assemble(
        (_local_time(event["timestamp"]), "dim"),
        "  ",
        (f"{kind:<17}", style),
        "  ",
        (output.clean(names.of(event)), "cyan"),
    )
    if "document_id" in data:
        made.append(f"  {output.clean(str(data['document_id']))}", style="bold")
    if data.get("title"):
        made.append(f"  {output.clean(str(data['title']))}")
    facts = [
        f"{name}={value}"
        for name, value in data.items()
        if name not in {"document_id", "library_id", "title", "name", "batch_id"}
        and isinstance(value, str | int | float)
    ]
    if facts:
        made.append(f"  {output.clean(' '.join(facts))}", style="dim")
    return made


def _local_time(timestamp: str) -> str:
    when = datetime.fromisoformat(timestamp).astimezone()
    return when.strftime("%H:%M:%S.") + f"{when.microsecond // 1000:03d}"
