"""The results of a live query, kept by applying what it tells.

For whoever comes later than the snapshot: they get what everybody else has by now. It must stay
what a client has that applies the same events in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Hit = dict[str, Any]


class _Snapshot(msgspec.Struct):
    results: list[Hit]


class _Delta(msgspec.Struct):
    hit: Hit


_snapshot = msgspec.json.Decoder(_Snapshot).decode
_delta = msgspec.json.Decoder(_Delta).decode


class Results:
    """Hits in rank order; `key` names the member by which the same hit is known again."""

    def __init__(self, key: Literal["chunk_id", "document_id"]) -> None:
        self.cursor: str | None = None
        self._key = key
        self._hits: list[Hit] = []

    def apply(self, events: Iterable[tuple[str, msgspec.Raw]], cursor: str) -> None:
        """The events of one cursor, as (name, data). What does not change hits is passed over."""
        arriving: list[Hit] = []
        gone: set[str] = set()
        for name, data in events:
            if name == "snapshot":
                self._hits = _snapshot(data).results
                arriving, gone = [], set()
            elif name in ("enter", "update", "leave"):
                hit = _delta(data).hit
                gone.add(hit[self._key])
                if name != "leave":
                    arriving.append(hit)
        if gone:
            self._hits = [hit for hit in self._hits if hit[self._key] not in gone]
        for hit in sorted(arriving, key=lambda hit: int(hit["rank"])):
            self._hits.insert(hit["rank"] - 1, hit)
        self.cursor = cursor

    def hits(self) -> list[Hit]:
        """With the ranks they have now."""
        return [{**hit, "rank": rank} for rank, hit in enumerate(self._hits, start=1)]
