"""`headwater watch`: the best hits of a query, as they change.

On a terminal a table that is always true; elsewhere, also on one that cannot go back to draw again,
a line for each change. A dropped connection is taken up again from the last cursor: the server then
tells what has changed meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer
from rich.live import Live

from headwater.cli import board, output
from headwater.cli.backoff import Backoff
from headwater.cli.board import Board, Hit, Kind
from headwater.cli.client import DEFAULT_URL, Client, Url, segment
from headwater.cli.feed import EventFeed
from headwater.cli.sse import ServerEvent
from headwater.live.results import Results

FRAMES_PER_S = 8


def watch(
    library: Annotated[str, typer.Argument(help="A name or id.")],
    query: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    k: Annotated[
        int | None, typer.Option("-k", "--k", min=1, help="How many hits; 10 when not given.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Only hits that score so much; without -k, all of them.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="Metadata that hits must have, as JSON.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many changes.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Each change as JSON, one a line.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Keep the best hits on the screen while documents come and go. Ctrl-C ends it."""
    wish = _wish(query, k, threshold, filter)
    with Client(url) as client:
        try:
            if as_json or not output.out.is_terminal or output.out.is_dumb_terminal:
                _print(LiveFeed(client, library, wish), count, as_json=as_json)
            else:
                _draw(client, library, wish, count)
        except KeyboardInterrupt:
            output.note("Stopped")


def _wish(query: str, k: int | None, threshold: float | None, filter: str | None) -> dict[str, Any]:
    wish: dict[str, Any] = {"query": query}
    if threshold is not None and not math.isfinite(threshold):
        raise typer.BadParameter(f"--threshold is {threshold}; give a number")
    if k is not None:
        wish["k"] = k
    if threshold is not None:
        wish["score_threshold"] = threshold
    if filter is not None:
        try:
            wish["filter"] = msgspec.json.decode(filter)
        except msgspec.DecodeError as error:
            raise typer.BadParameter(f"{filter!r} is not JSON: {error}") from error
    return wish


@dataclass(frozen=True, slots=True)
class Step:
    """The list at `cursor`, and the changes since the step before; first all of it."""

    hits: list[Hit]
    cursor: str
    changes: list[tuple[Kind, Hit]]
    told: list[tuple[str, str]]
    """The events as they came: name, data."""


class LiveFeed(EventFeed):
    """A live query over as many connections as it takes."""

    def __init__(
        self,
        client: Client,
        library: str,
        wish: dict[str, Any],
        *,
        backoff: Backoff | None = None,
        say: Callable[[str], None] = output.note,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            client,
            "POST",
            f"/v1/libraries/{segment(library)}/search/live",
            body=msgspec.json.encode(wish),
            backoff=backoff,
            say=say,
        )
        self._results = Results("chunk_id")
        self._group: list[ServerEvent] = []
        self._on_ready = on_ready

    def connected(self) -> None:
        self._group = []

    def ready(self, cursor: str) -> None:
        """The snapshot, or the difference, has been told: go on from here."""
        self.cursor = cursor
        self._on_ready()

    def steps(self) -> Iterator[Step]:
        """A step for each cursor at which something changed. Raises final `Problem`s."""
        for event in self.all():
            if event.type in ("snapshot", "enter", "update", "leave"):
                self._group.append(event)
                if event.type == "snapshot" or not _more(event):
                    group, self._group = self._group, []
                    yield self._step(group)

    def _step(self, group: list[ServerEvent]) -> Step:
        before = {hit["chunk_id"]: hit for hit in self._results.hits()}
        cursor = str(msgspec.json.decode(group[-1].data)["cursor"])
        events = [(event.type, msgspec.Raw(event.data.encode())) for event in group]
        self._results.apply(events, cursor)
        hits = self._results.hits()
        return Step(
            hits, cursor, _changes(before, hits), [(event.type, event.data) for event in group]
        )


def _changes(before: dict[str, Hit], hits: list[Hit]) -> list[tuple[Kind, Hit]]:
    """What went, then what came or changed, by rank; a hit that only moved up or down did not."""
    now = {hit["chunk_id"] for hit in hits}
    changes: list[tuple[Kind, Hit]] = [
        ("leave", hit) for id, hit in before.items() if id not in now
    ]
    for hit in hits:
        old = before.get(hit["chunk_id"])
        if old is None:
            changes.append(("enter", hit))
        elif {**old, "rank": 0} != {**hit, "rank": 0}:
            changes.append(("update", hit))
    return changes


def _more(event: ServerEvent) -> bool:
    return bool(msgspec.json.decode(event.data).get("more", False))


def _print(feed: LiveFeed, count: int | None, *, as_json: bool) -> None:
    shown = 0
    for step in feed.steps():
        if as_json:
            for name, data in step.told:
                output.line(f'{{"event":"{name}",{data[1:]}')
        else:
            for kind, hit in step.changes:
                output.out.print(board.line(kind, hit))
        shown += len(step.changes)
        if count is not None and shown >= count:
            return


def _draw(client: Client, library: str, wish: dict[str, Any], count: int | None) -> None:
    shown = Board(f"{library}: {wish['query']}")
    feed = LiveFeed(
        client, library, wish, say=shown.say, on_ready=lambda: shown.say("live, Ctrl-C ends")
    )
    seen = 0
    with Live(
        get_renderable=shown.render, console=output.out, refresh_per_second=FRAMES_PER_S
    ) as drawn:
        try:
            for step in feed.steps():
                shown.show(step.hits, step.cursor, step.changes)
                seen += len(step.changes)
                if count is not None and seen >= count:
                    break
        finally:
            shown.whole = True
            drawn.refresh()
