"""Who is really there: leases of the living, people of the dead, sessions nobody comes to.

Every process answers for its people by a lease that it renews. The folder's keeper takes out those
whose process has ended, which the system tells at once, or has been silent for a lease; each gets
its `session.left`. In the other processes that part waits to take over.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import anyio
import anyio.abc
import structlog

from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import HeadwaterError, Unavailable
from headwater.live.bus import Bus
from headwater.settings import SessionSettings
from headwater.store import DataFolder
from headwater.store.session_commands import (
    ForgetSessions,
    LeaveSession,
    RemoveLostPeople,
    RenewLease,
)

GOODBYE_S = 5.0
"""How long the end of a connection waits for its leaving to be written; then it is tried again."""
FORGET_EVERY_S = 600.0
FORGET_AT_ONCE = 20
"""Sessions deleted in one transaction: each may have hundreds of notes."""

log_line = structlog.get_logger(__name__)


class Presence:
    """Loop only. `people` tells how many there are in this process."""

    def __init__(
        self,
        log: Log,
        folder: DataFolder,
        bus: Bus,
        clock: Clock,
        settings: SessionSettings,
        process: str,
        people: Callable[[], int],
    ) -> None:
        self._log = log
        self._folder = folder
        self._bus = bus
        self._clock = clock
        self._settings = settings
        self._process = process
        self._people = people
        self._unsaid: dict[str, str] = {}

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew)
            tasks.start_soon(self._say_again)
            tasks.start_soon(self._reap)
            tasks.start_soon(self._forget)
            task_status.started()

    def lease_us(self) -> int:
        """Until when a lease runs that is given now."""
        return self._clock.now_us() + _us(self._settings.lease)

    async def leave(self, person_id: str, reason: str) -> None:
        """Tell that somebody is gone, if not now then as soon as the store takes it.

        Shielded: it is told even when the one who leaves is being cancelled.
        """
        self._unsaid[person_id] = reason
        with anyio.move_on_after(GOODBYE_S, shield=True):
            try:
                await self._say(person_id, reason)
            except HeadwaterError as error:
                log_line.warning("session.not_left", person=person_id, detail=error.detail)

    async def _say(self, person_id: str, reason: str) -> None:
        await self._log.store.write(LeaveSession(person_id, reason))
        self._unsaid.pop(person_id, None)

    async def _say_again(self) -> None:
        """Nobody may stay behind because the store was busy in the moment of their leaving."""
        while True:
            await anyio.sleep(self._settings.lease.total_seconds() / 4)
            for person_id, reason in list(self._unsaid.items()):
                try:
                    await self._say(person_id, reason)
                except Unavailable as error:
                    log_line.warning("session.not_left", person=person_id, detail=error.detail)
                    break

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self._settings.lease.total_seconds() / 4)
            if self._people():
                try:
                    await self._log.store.write(RenewLease(self._process, self.lease_us()))
                except Unavailable as error:
                    log_line.warning("sessions.lease_not_renewed", detail=error.detail)

    async def _reap(self) -> None:
        while True:
            if self._folder.keeps:
                try:
                    self._bus.sweep(self._folder.alive)
                    await self._reap_once()
                except (Unavailable, OSError) as error:  # also when there is no file to spare
                    log_line.warning("sessions.not_reaped", detail=str(error))
            await anyio.sleep(self._settings.reap_every.total_seconds())

    async def _reap_once(self) -> None:
        # In this order: whoever holds people was alive before, so a new process is never missed.
        holders = await self._log.store.read(lambda reader: reader.session_holders())
        dead = holders.keys() - self._folder.alive()
        now_us = self._clock.now_us()
        if dead or any(until_us < now_us for until_us in holders.values()):
            lost = await self._log.store.write(RemoveLostPeople(dead, now_us))
            log_line.info("sessions.people_lost", people=lost, processes=sorted(dead))

    async def _forget(self) -> None:
        while True:
            if self._folder.keeps:
                before_us = self._clock.now_us() - _us(self._settings.keep)
                try:
                    while await self._log.store.write(ForgetSessions(before_us, FORGET_AT_ONCE)):
                        pass
                except Unavailable as error:
                    log_line.warning("sessions.not_forgotten", detail=error.detail)
            await anyio.sleep(FORGET_EVERY_S)


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
