"""Views made anew from the store, beside those that answer meanwhile.

Somebody asks for it by a change in the log, so that every process hears it. A view that has met
such a change is outdated: it answers until the new one is whole, but is never kept past the
change, so that a process that dies in the middle meets it once more when it starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc
import structlog

from headwater.errors import HeadwaterError, LibraryNotFound, ShuttingDown
from headwater.search.slot import Slot

S = TypeVar("S", bound=Slot[Any])

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Renewal:
    """`error` is what went wrong, for those who wait: nobody else keeps it, and all it holds."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


class Renewals(Generic[S]):
    """One at a time: each takes the memory of a second view. Loop only.

    `make` makes another view and puts it in the place of the one given. It is called as long as
    the one in `slots` is outdated: another wish may have come while it was at it.
    """

    def __init__(
        self, kind: str, slots: dict[str, S], make: Callable[[S], Awaitable[None]]
    ) -> None:
        self._kind = kind
        self._slots = slots
        self._make = make
        self._turns = anyio.Semaphore(1)
        self._under_way: dict[str, _Renewal] = {}
        self._group: anyio.abc.TaskGroup | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._group = None

    def begin(self, slot: S) -> None:
        """The view is outdated: make it anew, unless that has begun."""
        slot.outdated = True
        if self._group is not None and slot.id not in self._under_way:
            renewal = self._under_way[slot.id] = _Renewal()
            self._group.start_soon(self._renew, slot.id, renewal)

    def under_way(self, library_id: str) -> bool:
        return library_id in self._under_way

    async def finished(self, slot: S) -> Exception | None:
        """Return when the outdated view is not being made anew any more: what went wrong."""
        self.begin(slot)
        renewal = self._under_way.get(slot.id)
        if renewal is None:
            raise ShuttingDown(f"the {self._kind} views are not running; try again in a moment")
        await renewal.done.wait()
        return renewal.error

    async def _renew(self, library_id: str, renewal: _Renewal) -> None:
        try:
            async with self._turns:
                while (old := self._slots.get(library_id)) and old.ready and old.outdated:
                    await self._make(old)
        except Exception as error:
            # The task's root: who waits hears of it.
            renewal.error = error
            if isinstance(error, LibraryNotFound):
                pass
            elif isinstance(error, HeadwaterError):
                log.warning(
                    "view.not_renewed", kind=self._kind, library=library_id, error=str(error)
                )
            else:
                log.exception("view.not_renewed", kind=self._kind, library=library_id)
        finally:
            del self._under_way[library_id]
            renewal.done.set()
