"""What the events of a live query carry, as structs to describe them by.

`service/watch.py` says what they mean and makes them; nothing is encoded with these.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from headwater.service.deltas import LiveEventName


class SnapshotData(msgspec.Struct):
    """All hits at `cursor`, best first, as in `…/search`."""

    results: list[dict[str, Any]]
    cursor: str


class CursorData(msgspec.Struct):
    """Everything up to there has been told."""

    cursor: str


class HitData(msgspec.Struct, omit_defaults=True):
    """A hit as in `…/search`; `more` when further events of the same cursor follow."""

    hit: dict[str, Any]
    cursor: str
    more: bool = False


class LeftHit(msgspec.Struct):
    """The rank is the one it had."""

    rank: int
    chunk_id: str
    document_id: str
    score: float


class LeaveData(msgspec.Struct, omit_defaults=True):
    hit: LeftHit
    reason: Literal["deleted", "outranked", "no_longer_matches"]
    cursor: str
    more: bool = False


class ResetData(msgspec.Struct, omit_defaults=True):
    """The cursor cannot be resumed; what follows starts over."""

    code: str
    detail: str
    reason: str | None = None
    earliest: str | None = None


LIVE_DATA: dict[LiveEventName, type[msgspec.Struct]] = {
    "snapshot": SnapshotData,
    "ready": CursorData,
    "enter": HitData,
    "update": HitData,
    "leave": LeaveData,
    "progress": CursorData,
    "reset": ResetData,
}
