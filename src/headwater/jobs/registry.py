"""The types of jobs, by name: those of the server and those that other packages declare.

A package that declares an entry point in the group `headwater.jobs` adds a type of that name; the
object is called without arguments and gives a `JobHandler`. Nothing of it is imported before a job
of that type is submitted or run, and then in a thread: a package may take seconds, and the loop has
requests to serve. See docs/jobs.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headwater.errors import InvalidJob, JobFailed
from headwater.jobs.base import JobHandler
from headwater.threads import Crew

GROUP = "headwater.jobs"

_IMPORTS = 4
_PATIENCE = timedelta(seconds=1)
"""With an import that hangs, when whoever wants it is to stop."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@cache
def declared() -> dict[str, EntryPoint]:
    """The declared types by name; the first of two with one name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if _NAME.fullmatch(point.name):
            found.setdefault(point.name, point)
    return found


class Registry:
    """Loop only. A type of the server wins over one that a package declares."""

    def __init__(self, handlers: Iterable[JobHandler] = ()) -> None:
        self._handlers: dict[str, JobHandler] = {}
        self._crew = Crew("job-types", _IMPORTS, _PATIENCE)
        for handler in handlers:
            self.add(handler)

    def add(self, handler: JobHandler) -> None:
        assert _NAME.fullmatch(handler.type), handler.type
        assert handler.type not in self._handlers, f"{handler.type} is there already"
        self._handlers[handler.type] = handler

    async def look(self) -> None:
        """Find out what is declared, which reads a file of each package that is installed."""
        await self._crew.call(declared)

    @property
    def names(self) -> list[str]:
        """All types, sorted."""
        return sorted({*self._handlers, *declared()})

    async def find(self, type: str) -> JobHandler:
        """Raises `InvalidJob` for a type that nobody declares, `JobFailed` for a broken one."""
        handler = self._handlers.get(type)
        if handler is None:
            point = declared().get(type)
            if point is None:
                raise InvalidJob(
                    f"there is no job type {type[:80]!r}; one of {', '.join(self.names)}",
                    path="type",
                )
            # Two that want it at once get the same.
            handler = self._handlers.setdefault(type, await self._crew.call(_make, point))
        return handler

    def heavy(self, type: str) -> bool:
        """Whether a job of that type is heavy, as far as is known without importing anything."""
        handler = self._handlers.get(type)
        return handler is not None and handler.heavy


def _make(point: EntryPoint) -> JobHandler:
    try:
        factory: Any = point.load()
        handler = factory()
    except Exception as error:
        # Whatever a stranger's code raises while it is imported or made.
        raise JobFailed(
            f"the job type {point.name!r} ({point.value}) cannot be used "
            f"({type(error).__name__}: {str(error)[:200]}); mend or reinstall its package"
        ) from error
    if not isinstance(handler, JobHandler) or handler.type != point.name:
        raise JobFailed(
            f"the job type {point.name!r} ({point.value}) gave a {type(handler).__name__}, not a "
            f"headwater.jobs.JobHandler with type {point.name!r}; see docs/jobs.md"
        )
    return handler
