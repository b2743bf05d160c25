"""The follower that matches what is written with the alerts, and tells it in the log.

Only the folder's keeper matches. What it tells and how far it is are one transaction, so that each
match is told once, also when the process is killed and another goes on from that place. It must
never go past a change that it has not matched, except one that the log no longer has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import structlog

from headwater import failpoints
from headwater.changes.bell import Bell
from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired, ShuttingDown, Unavailable
from headwater.live.alert_table import AlertTable
from headwater.live.step import DELETED, TYPES, pieces_of
from headwater.model import AddedVectors, Alert, Change, Library, Position
from headwater.settings import LiveSettings
from headwater.store import DataFolder
from headwater.store.alert_commands import Match, Place, TellMatches
from headwater.store.base import Reader
from headwater.threads import Lane

ALERT_CHANGES = ("alert.created", "alert.updated", "alert.deleted")
_TYPES = (*TYPES, *ALERT_CHANGES)
_LOOK_S = 1.0
_RETRY_S = 0.5
_LOADED_AT_ONCE = 1_000
_PAGE = 1_000
_TOLD_AT_ONCE = 1_000
_SAVED_EVERY_S = 10.0
"""How often the place is saved while nothing matches: so much is matched again after a crash."""

log_line = structlog.get_logger(__name__)

Job = Callable[[], Any]


@dataclass(slots=True)
class _Stretch:
    through: Position
    changes: list[Change] = field(default_factory=list)
    vectors: list[AddedVectors] = field(default_factory=list)
    libraries: set[str | None] = field(default_factory=set)
    """Of the alerts that it changes: the first of a library may come with what it matches."""


class AlertMatching:
    """Loop only; the matching is done on a lane of its own: live queries do not wait for it."""

    def __init__(self, log: Log, folder: DataFolder, clock: Clock, settings: LiveSettings) -> None:
        self._log = log
        self._folder = folder
        self._clock = clock
        self._settings = settings
        self._tables: dict[str, AlertTable] = {}
        self._lane: Lane[Job, Any] = Lane("alerts", _do, max_batch=1)
        self._read: Callable[..., Any] | None = None
        self._running = False
        self.position: Position = 0
        self.reached = Bell()
        """Rings when the matching has come further than ever."""
        self._saved = Place(0)
        self._saved_s = 0.0
        self.told = 0
        self.failures = 0

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Match until cancelled, once this process keeps the folder."""
        self._read = self._log.store.open_reader()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._lane.run)
            task_status.started()
            while not self._folder.keeps:  # noqa: ASYNC110 - a lock file rings no bell
                await anyio.sleep(_LOOK_S)
            while True:
                try:
                    await self._load()
                    self._running = True
                    while True:
                        await self._log.bell.wait_past(self.position)
                        await self._turn()
                        await anyio.lowlevel.checkpoint()
                except ShuttingDown:
                    return
                except CursorExpired:
                    await self._skip_what_is_gone()
                except Unavailable as error:
                    log_line.warning("alerts.waiting_for_store", detail=error.detail)
                except Exception:
                    # The task's root. It begins again from the place that is saved.
                    log_line.exception("alerts.failed")
                    self.failures += 1
                finally:
                    self._running = False
                await anyio.sleep(_RETRY_S)

    def snapshot(self) -> dict[str, Any]:
        """Figures, of this process."""
        return {
            "running": self._running,
            "alerts": sum(len(table) for table in self._tables.values()),
            "told": self.told,
            "failures": self.failures,
            "pending_positions": max(0, self._log.head - self.position) if self._running else 0,
        }

    # ── Beginning ───────────────────────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        """All alerts as they are now, and the place where the matching goes on."""
        self._tables = {}
        place, head = await self._log.store.read(
            lambda reader: (reader.alerts_place(), reader.head())
        )
        after = 0
        while page := await self._log.store.read(
            partial(_alerts, after=after, limit=_LOADED_AT_ONCE)
        ):
            await self._lane.submit(partial(self._put, *page))
            after = page[0][-1].row
        self._saved = Place(head) if place is None else place
        self._saved_s = self._clock.monotonic()
        self.position = self._saved.position if self._tables else max(head, self._saved.position)
        self.reached.ring(self.position)

    def _put(self, alerts: Sequence[Alert], libraries: dict[str, Library]) -> None:
        """In the lane's thread."""
        for alert in alerts:
            library = libraries.get(alert.library_id)
            if library is None:
                continue
            table = self._tables.get(alert.library_id)
            if table is None:
                table = AlertTable(library.metric, library.dimension)
                self._tables[alert.library_id] = table
            table.put(alert)

    async def _skip_what_is_gone(self) -> None:
        """The log was trimmed past the place: what is gone was never matched, and cannot be."""
        trimmed = await self._log.store.read(lambda reader: reader.trimmed())
        log_line.error("alerts.log_trimmed", position=self.position, trimmed=trimmed)
        await self._log.store.write(TellMatches(Place(trimmed), ()))

    # ── Following ───────────────────────────────────────────────────────────────────────────────

    async def _turn(self) -> None:
        stretch = self._from_ring() or await self._from_store()
        begin = 0
        changes = stretch.changes
        while begin < len(changes):
            # Alerts change where the log says so: what is before is matched with them as they were.
            end = begin
            alerts = changes[begin].type in ALERT_CHANGES
            while end < len(changes) and (changes[end].type in ALERT_CHANGES) == alerts:
                end += 1
            part = changes[begin:end]
            begin = end
            if alerts:
                await self._change_alerts(part)
            else:
                await self._match(part, stretch)
        self.position = stretch.through
        self.reached.ring(self.position)
        now_s = self._clock.monotonic()
        if self._tables and now_s >= self._saved_s + _SAVED_EVERY_S:
            await self._tell(Place(stretch.through), [])

    def _from_ring(self) -> _Stretch | None:
        stretch = _Stretch(self.position)
        rows = 0
        while rows < self._settings.step_rows:
            committed = self._log.ring.after(stretch.through)
            if committed is None:
                break
            stretch.through = committed.through
            own = [
                change
                for change in committed.changes
                if change.position > self.position and self._concerns(change, stretch)
            ]
            if own:
                stretch.changes += own
                stretch.vectors += committed.vectors
                rows += sum(change.added.count + change.kept.count for change in own)
        return None if stretch.through == self.position else stretch

    async def _from_store(self) -> _Stretch:
        page = await self._log.read(self.position, _PAGE, types=_TYPES)
        stretch = _Stretch(page.through)
        stretch.changes += [one for one in page.changes if self._concerns(one, stretch)]
        return stretch

    def _concerns(self, change: Change, stretch: _Stretch) -> bool:
        """Asked of the stretch's changes in their order."""
        if change.type in ALERT_CHANGES:
            stretch.libraries.add(change.library_id)
            return True
        return change.type in TYPES and (
            change.library_id in self._tables or change.library_id in stretch.libraries
        )

    async def _change_alerts(self, changes: Sequence[Change]) -> None:
        """Take them as the store has them; one changed again later will be taken again then.

        Those loaded at the beginning are newer than what the log tells of them first.
        """
        tables = self._tables.values()
        changes = [
            change
            for change in changes
            if not any(table.holds(change.subject, change.position) for table in tables)
        ]
        if not changes:
            return
        ids = [change.subject for change in changes if change.subject]
        found, libraries = await self._log.store.read(partial(_alerts_by_id, ids=ids))

        def change_them() -> None:
            gone = {change.subject for change in changes} - found.keys()
            for table in self._tables.values():
                for id in gone:
                    table.remove(id or "")
            self._put(list(found.values()), libraries)
            for library_id in [id for id, table in self._tables.items() if not len(table)]:
                del self._tables[library_id]

        await self._lane.submit(change_them)

    async def _match(self, changes: Sequence[Change], stretch: _Stretch) -> None:
        own: defaultdict[str, list[Change]] = defaultdict(list)
        for change in changes:
            if change.type == DELETED:
                self._tables.pop(change.library_id or "", None)
            elif change.library_id in self._tables:
                own[change.library_id].append(change)
        assert self._read is not None
        matches: list[Match] = []
        for library_id, some in own.items():
            table = self._tables.get(library_id)
            if table is not None:
                pieces = pieces_of(library_id, stretch.vectors)
                matches += await self._lane.submit(partial(table.match, some, pieces, self._read))
        if not matches:
            return
        matches.sort(key=lambda match: (match.position, match.alert))
        failpoints.reach("alerts.before_write")
        for begin in range(0, len(matches), _TOLD_AT_ONCE):
            part = matches[begin : begin + _TOLD_AT_ONCE]
            last = begin + _TOLD_AT_ONCE >= len(matches)
            place = Place(changes[-1].position if last else part[-1].position - 1)
            if not last:
                place = Place(place.position, part[-1].alert)
            await self._tell(place, part)

    async def _tell(self, place: Place, matches: Sequence[Match]) -> None:
        if place <= self._saved:
            return
        self.told += await self._log.store.write(TellMatches(place, matches))
        failpoints.reach("alerts.after_write")
        self._saved = place
        self._saved_s = self._clock.monotonic()


def _alerts(
    reader: Reader, after: int, limit: int
) -> tuple[list[Alert], dict[str, Library]] | None:
    """A page of alerts and their libraries; None when there are no more."""
    alerts = reader.alerts(after=after, limit=limit)
    return (alerts, _libraries(reader, alerts)) if alerts else None


def _alerts_by_id(
    reader: Reader, ids: Sequence[str]
) -> tuple[dict[str, Alert], dict[str, Library]]:
    found = reader.alerts_by_id(ids)
    return found, _libraries(reader, list(found.values()))


def _libraries(reader: Reader, alerts: Sequence[Alert]) -> dict[str, Library]:
    ids = {alert.library_id for alert in alerts}
    found = {id: reader.library(id) for id in ids}
    return {id: library for id, library in found.items() if library is not None}


def _do(jobs: Sequence[Job]) -> list[Any]:
    """The lane's work."""
    return [job() for job in jobs]
