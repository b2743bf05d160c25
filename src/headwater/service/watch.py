"""A live query as one reader sees it: what it has been told, and what has changed since.

    async with live.watch(library, query, after=cursor) as watch:
        while True:
            deltas = await watch.take()      # first the snapshot, or the difference since `after`
            if deltas is None:
                await watch.wait()
                continue
            await send(deltas.events)        # however slow: the next `take` tells what is true then

A watch keeps the hits it has told and nothing else: whoever reads slowly gets fewer, larger
differences, never a queue. Loop only.
"""

from __future__ import annotations

from typing import Literal

import msgspec

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
