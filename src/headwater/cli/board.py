"""The hits of a live query on a terminal: a table in which what has just changed stands out.

`watch.py` feeds it; rich draws it from a thread of its own, several times a second, so that marks
fade by themselves. It must never show a list that the server has not told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headwater.cli import output

Hit = dict[str, Any]
Kind = Literal["enter", "update", "leave"]

MARK_S = 2.0
"""How long a change stands out."""

_AROUND = 4
"""Lines of a board that show no hit: the title, the head of the table and its rule, the foot."""

_STYLES: dict[Kind, str] = {"enter": "bold green", "update": "yellow", "leave": "red strike dim"}
_SIGNS: dict[Kind, str] = {"enter": "+", "update": "~", "leave": "−"}


@dataclass(frozen=True, slots=True)
class Mark:
    kind: Kind
    until_s: float
    hit: Hit


@dataclass(slots=True)
class Board:
    """`hits` are shown in their order; `say` tells of the connection below them.

    Of more than the terminal holds only the best are drawn, so that the foot is in sight, unless
    `whole` is set: for the last time, when it stays behind.
    """

    title: str
    clock: Callable[[], float] = time.monotonic
    hits: list[Hit] = field(default_factory=list)
    cursor: str = ""
    status: str = "connecting"
    whole: bool = False
    _marks: dict[str, Mark] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, hits: list[Hit], cursor: str, changes: list[tuple[Kind, Hit]]) -> None:
        """The list as it is now, and what led to it."""
        until_s = self.clock() + MARK_S
        with self._lock:
            self.hits, self.cursor = hits, cursor
            for kind, hit in changes:
                self._marks[hit["chunk_id"]] = Mark(kind, until_s, hit)

    def say(self, status: str) -> None:
        with self._lock:
            self.status = status

    def render(self) -> RenderableType:
        now_s = self.clock()
        with self._lock:
            self._marks = {id: mark for id, mark in self._marks.items() if mark.until_s > now_s}
            rows = [(hit, self._marks.get(hit["chunk_id"])) for hit in self.hits]
            shown = {hit["chunk_id"] for hit in self.hits}
            gone = [
                (mark.hit, mark)
                for mark in self._marks.values()
                if mark.kind == "leave" and mark.hit["chunk_id"] not in shown
            ]
            status, cursor = self.status, self.cursor
        rows += gone
        room = len(rows) if self.whole else max(1, output.out.height - _AROUND)
        table = output.table("", "score", "title", "passage", right=("score",))
        for hit, mark in rows[:room]:
            _row(table, hit, mark)
        below = f"{len(rows) - room:,} more below  " if len(rows) > room else ""
        foot = _one_line(f"{below}{status}  {cursor}", style="dim")
        return Group(_one_line(self.title, style="bold"), table, foot)


def _row(table: Table, hit: Hit, mark: Mark | None) -> None:
    style = "" if mark is None else _STYLES[mark.kind]
    table.add_row(
        Text("" if mark is None else _SIGNS[mark.kind]),
        Text(f"{hit['score']:.3f}" if "score" in hit else "", no_wrap=True),
        _short(hit.get("title") or hit["document_id"], 32),
        _short(hit.get("text") or "", max(20, output.out.width - 50)),
        style=style,
    )


def _short(text: str, width: int) -> Text:
    made = Text(output.first_line(text), no_wrap=True)
    made.truncate(width, overflow="ellipsis")
    return made


def _one_line(text: str, *, style: str) -> Text:
    return Text(output.clean(text), style=style, no_wrap=True, overflow="ellipsis")


def line(kind: str, hit: Hit) -> Text:
    """One change on one line, for output that is no terminal."""
    name = output.clean(hit.get("title") or hit["document_id"])
    made = Text(f"{kind:<7}", no_wrap=True)
    made.append(f"{hit.get('rank', ''):>4}  ")
    made.append(f"{hit['score']:6.3f}  " if "score" in hit else "        ")
    made.append(f"{output.clean(hit['chunk_id'])}  {name}")
    if text := hit.get("text"):
        made.append(f"  {output.first_line(text)}")
    made.truncate(output.out.width, overflow="ellipsis")
    return made
