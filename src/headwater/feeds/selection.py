"""What a reader of the feed wants to hear: libraries, types, metadata.

Parsed once from a request; equal selections share encoded frames. It must decide from a change
alone, never from the present state of a document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from headwater.errors import InvalidQuery
from headwater.filters import Filter, matches, parse_json
from headwater.model import EVENT_TYPES, Change

CHUNK_TYPES = frozenset(kind for kind in EVENT_TYPES if kind.startswith("chunk."))
STORED_TYPES = frozenset(EVENT_TYPES) - CHUNK_TYPES


class _Metadata(msgspec.Struct):
    metadata: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Metadata).decode


@dataclass(frozen=True, slots=True)
class Selection:
    """`library_ids` and `stored` are None for "all"; `condition` is None for any metadata.

    `stored` are the log's own types to read; `told` those that reach the reader, `chunk.*`
    included. They differ when somebody wants chunk events but not the document events they are
    expanded from.
    """

    library_ids: frozenset[str] | None = None
    told: frozenset[str] = STORED_TYPES
    condition: Filter | None = None

    @property
    def chunks(self) -> bool:
        return not self.told.isdisjoint(CHUNK_TYPES)

    @property
    def stored(self) -> frozenset[str] | None:
        """Types to read from the log; None when all."""
        stored = self.told & STORED_TYPES
        if self.chunks:
            stored |= {"document.added", "document.updated", "document.deleted"}
        return None if stored == STORED_TYPES else frozenset(stored)

    @property
    def everything(self) -> bool:
        return self.library_ids is None and self.stored is None and self.condition is None

    def wants(self, change: Change) -> bool:
        """Whether any event of this change may be told."""
        if self.library_ids is not None and change.library_id not in self.library_ids:
            return False
        stored = self.stored
        if stored is not None and change.type not in stored:
            return False
        return self.condition is None or _meets(change, self.condition)

    def pick(self, changes: Iterable[Change]) -> list[Change]:
        if self.everything:
            return list(changes)
        return [change for change in changes if self.wants(change)]


def parse_types(text: str | None) -> frozenset[str]:
    """`document.*,batch.completed` as a set of types.

    `*` is every stored type: `chunk.*` is expanded only for those who name it. Raises
    `InvalidQuery` for a pattern that no type can match.
    """
    if text is None:
        return STORED_TYPES
    told: set[str] = set()
    for pattern in filter(None, (piece.strip() for piece in text.split(","))):
        if pattern == "*":
            matched: Collection[str] = STORED_TYPES
        elif pattern.endswith(".*"):
            matched = [kind for kind in EVENT_TYPES if kind.startswith(pattern[:-1])]
        else:
            matched = [kind for kind in EVENT_TYPES if kind == pattern]
        if not matched:
            raise InvalidQuery(
                f"no event type matches {pattern!r}; known: {', '.join(EVENT_TYPES)}",
                parameter="types",
            )
        told.update(matched)
    if not told:
        raise InvalidQuery("`types` names no event type; leave it out to hear all")
    return frozenset(told)


def parse_condition(text: str | None) -> Filter | None:
    """The `filter` of a request. Raises `InvalidFilter`."""
    return None if text is None else parse_json(text)


def _meets(change: Change, condition: Filter) -> bool:
    """Only documents and alerts have metadata that a filter may speak of."""
    if not change.type.startswith(("document.", "alert.")):
        return False
    return matches(condition, _decode(change.data).metadata)
