"""The queue of standing queries that must be looked up, and the task that does it.

Some at a time, those with one filter together; what fails for a while is tried again, what cannot
be is told to the query's readers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
import structlog

from headwater.errors import (
    CursorExpired,
    HeadwaterError,
    LibraryNotFound,
    ShuttingDown,
    TooManyHits,
    Unavailable,
)
from headwater.live.counts import Counts
from headwater.live.lookup import Found, Lookup
from headwater.live.standing import Standing

_AT_ONCE = 32
"""Queries asked together, in one product: a search lane answers others between two such."""
_TRIES = 25
_RETRY_S = 0.2

log = structlog.get_logger(__name__)


class Asking:
    """Of one library. `tell` is given what was found, `gone` is called when the library is."""

    def __init__(
        self,
        lookup: Lookup,
        counts: Counts,
        tell: Callable[[list[Found]], None],
        gone: Callable[[HeadwaterError], None],
    ) -> None:
        self._lookup = lookup
        self._counts = counts
        self._tell = tell
        self._gone = gone
        self._waiting: dict[Standing, None] = {}
        self._news = anyio.Event()

    def put(self, standing: Standing) -> None:
        """Have it looked up, once, however often this is called meanwhile."""
        if not standing.asked and standing.error is None:
            standing.asked = True
            self._waiting[standing] = None
            self._news.set()

    def drop(self, standing: Standing) -> None:
        """Nobody needs it any more."""
        standing.left = True
        self._waiting.pop(standing, None)

    async def run(self) -> None:
        """Look up what waits until cancelled."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._waiting:
                await self._some()

    async def _some(self) -> None:
        filter = next(iter(self._waiting)).wanted.filter
        some: list[Standing] = []
        for standing in self._waiting:
            if standing.wanted.filter == filter:
                some.append(standing)
                if len(some) == _AT_ONCE:
                    break
        for standing in some:
            del self._waiting[standing]
        try:
            results = await self._lookup.find(some, filter)
        except LibraryNotFound as error:
            self._gone(error)
            return
        except (Unavailable, CursorExpired) as error:
            # Expired: the log was trimmed while the view was loaded; the next question loads anew.
            await self._try_again(some, error)
            return
        except HeadwaterError as error:
            for standing in some:
                standing.fail(error)
            return
        except Exception as error:  # the task's root: those who wait hear of it
            log.exception("live.not_looked_up")
            self._counts.failures += 1
            for standing in some:
                standing.fail(Unavailable(f"the search for it failed ({error}); try again"))
            return
        self._counts.lookups += len(some)
        found: list[Found] = []
        for standing, result in zip(some, results, strict=True):
            if isinstance(result, TooManyHits):
                standing.fail(result)
            else:
                self._counts.refills += standing.known
                found.append(result)
        self._tell(found)

    async def _try_again(self, some: Sequence[Standing], error: HeadwaterError) -> None:
        for standing in some:
            standing.tries += 1
            standing.asked = False
            if standing.tries > _TRIES or isinstance(error, ShuttingDown):
                standing.fail(error)
        await anyio.sleep(_RETRY_S)
        for standing in some:
            if not standing.left:
                self.put(standing)
