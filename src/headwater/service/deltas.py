"""What a reader of a live query is told, ready to be put into frames, and a hit as it was told."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from headwater.model import Passage, chunk_id
from headwater.service.render import encode

LiveEventName = Literal["snapshot", "ready", "enter", "update", "leave", "progress", "reset"]
LIVE_EVENTS: tuple[LiveEventName, ...] = (
    "snapshot",
    "ready",
    "enter",
    "update",
    "leave",
    "progress",
    "reset",
)


class LiveEvent(msgspec.Struct, frozen=True, gc=False):
    """One event; `data` is its JSON object, encoded, for a frame or an SSE `data:` line.

    `snapshot`  {"results": [hit…], "cursor"}
    `ready`     {"cursor"}: everything up to there has been told
    `enter`     {"hit", "cursor"}, and "more": true when the same cursor has further events
    `update`    as `enter`: the hit of that chunk_id has another rank, score, text or metadata
    `leave`     {"hit": {rank, chunk_id, document_id, score}, "reason", "cursor"}, "more" as above;
                the rank is the one it had; `reason` is deleted, outranked or no_longer_matches
    `progress`  {"cursor"}: nothing changed up to there
    `reset`     {"code", "detail", …}: the cursor cannot be resumed; a `snapshot` follows
    """

    event: LiveEventName
    data: msgspec.Raw


class Deltas(msgspec.Struct, frozen=True, gc=False):
    """Events in order, all of one cursor. A reader is at `cursor` once it has had the last.

    `kind` is `snapshot`, `difference` (after a resume), `changes` or `progress`.
    """

    kind: Literal["snapshot", "difference", "changes", "progress"]
    cursor: str
    events: list[LiveEvent]


class Told(NamedTuple):
    """A hit as it was told; its rank is its place among the others."""

    row: int
    score: float
    document_id: str
    ordinal: int
    id: str
    """By which a reader knows it: its chunk's, or its document's where hits are grouped."""

    @property
    def chunk_id(self) -> str:
        return chunk_id(self.document_id, self.ordinal)


def told_of(passage: Passage, score: float, *, grouped: bool) -> Told:
    document_id, ordinal = passage.document_id, passage.ordinal
    id = document_id if grouped else chunk_id(document_id, ordinal)
    return Told(passage.row, score, document_id, ordinal, id)


def event(name: LiveEventName, data: dict[str, Any]) -> LiveEvent:
    return LiveEvent(name, msgspec.Raw(encode(data)))
