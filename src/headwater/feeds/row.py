"""Listeners that stand at the same place and are told the same bytes, one write for each.

What tells a crowd is paid for each of its sockets, and most of that is memory that has not been
looked at since the last event. So a row has one account for all its members: telling it looks at
nothing of theirs but the socket. What a member was told is worked out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from headwater.feeds.event import Event
from headwater.feeds.reader import Piece
from headwater.model import Position

Member = TypeVar("Member")
Write = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Line:
    """A way to a client that takes what it is given: whoever has it says when it no longer does."""

    name: str
    """Lines of the same name take the same bytes."""
    frame: Callable[[Sequence[Event]], bytes]
    write: Write
    told: Callable[[int, int], None]
    """To be called with how many events, and bytes, were written since the last call."""


class Row(Generic[Member]):
    """Loop only. `events` and `size_bytes` are what has been written to each since it began.

    Everything up to `position` has been told or is not wanted; `told` is the last that was told,
    at `told_s`. `alone` is given those who step out.
    """

    __slots__ = (
        "_alone",
        "_frame",
        "_order",
        "_writes",
        "events",
        "position",
        "size_bytes",
        "told",
        "told_s",
    )

    def __init__(
        self, line: Line, position: Position, now_s: float, alone: dict[Member, None]
    ) -> None:
        self._frame = line.frame
        self._alone = alone
        self._writes: dict[Member, Write] = {}
        self._order: tuple[list[Member], list[Write]] | None = None
        self.position = self.told = position
        self.told_s = now_s
        self.events = self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._writes)

    @property
    def members(self) -> list[Member]:
        """In the order they came."""
        return list(self._writes)

    def join(self, member: Member, line: Line) -> None:
        """One who stands at `told` and has nothing waiting to be sent."""
        self._writes[member] = line.write
        self._order = None

    def step_out(self, member: Member) -> None:
        """Possibly in the course of `tell`, by what is written to it; it has been told then."""
        del self._writes[member]
        self._alone[member] = None
        self._order = None

    def tell(self, piece: Piece, now_s: float) -> list[tuple[Member, Exception]]:
        """Write to each in turn what follows `position`. Gives those whose line failed, and why."""
        self.position = piece.through
        if not piece.count:
            return []
        data = self._frame(piece.events)
        self.told, self.told_s = piece.through, now_s
        self.events += piece.count
        self.size_bytes += len(data)
        if self._order is None:
            self._order = list(self._writes), list(self._writes.values())
        members, writes = self._order
        failed: list[tuple[Member, Exception]] = []
        for place, write in enumerate(writes):
            try:
                write(data)
            except Exception as error:  # noqa: BLE001 - raised in the member's own task
                failed.append((members[place], error))
        return failed
