"""The one thread that indexes of a kind belong to, and its view of the store.

`Follower` and `Opening` submit jobs to it, a bounded piece of work each, as others wait meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.abc
import structlog

from headwater.search.following import Unusable
from headwater.store.base import Reader, Store
from headwater.threads import Lane

T = TypeVar("T")

log = structlog.get_logger(__name__)


class IndexLane:
    """Jobs go one after the other, in the order submitted. Loop only, but for `reading`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lane: Lane[Callable[[], Any], Any] = Lane(name, _do, max_batch=1)
        self._read: Callable[[Callable[[Reader], Any]], Any] | None = None
        self._group: anyio.abc.TaskGroup | None = None

    async def run(
        self, store: Store, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Own the thread until cancelled, then join it: nobody touches an index any more."""
        self._read = store.open_reader()
        async with anyio.create_task_group() as group:
            await group.start(self._lane.run)
            self._group = group
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._group = None

    async def do(self, job: Callable[[], T]) -> T:
        """`job`'s result. Raises what it does; a panic of an extension as `Unusable`."""
        result: T = await self._lane.submit(partial(unpanicked, job))
        return result

    async def read(self, query: Callable[[Reader], T]) -> T:
        """`query`'s result, in a read transaction."""
        return await self.do(partial(self.reading, query))

    def reading(self, query: Callable[[Reader], T]) -> T:
        """`query`'s result, for jobs: in the thread."""
        assert self._read is not None
        result: T = self._read(query)
        return result

    def soon(self, job: Callable[[], object]) -> None:
        """Have it done after what was submitted before; nobody waits for it."""
        if self._group is not None:
            self._group.start_soon(self.unheard, job)

    async def unheard(self, job: Callable[[], object]) -> None:
        """Have it done; what goes wrong is only logged."""
        try:
            await self.do(job)
        except Exception:
            log.exception("view.left_behind", kind=self.name)


def unpanicked(job: Callable[[], T]) -> T:
    """`job`, with a panic of an extension made an `Unusable`.

    PyO3's PanicException is no `Exception`, and would end the thread without a word to anybody.
    """
    try:
        return job()
    except Exception:
        raise
    except BaseException as panic:
        raise Unusable(f"{type(panic).__name__}: {panic}") from panic


def _do(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    return [job() for job in jobs]
