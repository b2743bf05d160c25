"""`/v1/jobs/{id}/events`: one job as server-sent events, until it has ended.

A stream sleeps until its own job has changed, and reads the log then, from where it is: streams of
many jobs cost nothing while others work. It keeps a position and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import msgspec
from starlette.responses import Response

from headwater.api.streaming import Conversation, EventOutlet, Inbound, Outbound
from headwater.changes import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired, Overloaded, ShuttingDown
from headwater.feeds import Hub, Selection, reset
from headwater.feeds.event import events, sse
from headwater.model import Change, Committed, Cursor, Job
from headwater.service.jobs import ENDED, Jobs, job_json

TYPES = frozenset(
    {
        "job.queued",
        "job.started",
        "job.progress",
        "job.completed",
        "job.failed",
        "job.cancelled",
    }
)
LAST = frozenset(f"job.{status}" for status in ENDED)
STILL_ALIVE = b": heartbeat\n\n"
_PAGE = 500
_FOREIGN_EVERY_S = 0.1
"""How often a stream looks at the log because another process has committed something."""

_SELECTION = Selection(told=TYPES)


class JobEvents:
    """Loop only."""

    def __init__(self, log: Log, hub: Hub, jobs: Jobs, clock: Clock) -> None:
        self._log = log
        self._hub = hub
        self._jobs = jobs
        self._clock = clock
        self._bells: dict[str, list[_Bell]] = {}
        log.on_news(self._hear)

    async def answer(self, id: str, after: str | None) -> Response:
        """Raises `JobNotFound`, `InvalidCursor`, `Overloaded`, `ShuttingDown`."""
        self._hub.streams.check()
        await self._jobs.get(id)
        cursor: Cursor | None = None
        expired: CursorExpired | None = None
        if after is not None:
            try:
                cursor = await self._log.resolve(after)
            except CursorExpired as error:
                expired = error

        async def talk(inbound: Inbound, outbound: Outbound) -> None:
            outlet = EventOutlet(outbound, self._hub.settings.stall)
            if expired is not None:
                await outlet.send(reset(expired))
                return
            with suppress(ShuttingDown, Overloaded):
                await self._speak(id, cursor, outlet)

        return Conversation(talk, media_type="text/event-stream")

    async def _speak(self, id: str, after: Cursor | None, outlet: EventOutlet) -> None:
        settings = self._hub.settings
        retry = b"retry: %d\n" % settings.retry_ms
        reason = "stopping"
        told = self._log.head if after is None else after.position
        try:
            with self._hub.streams.open(), self._listening(id) as bell:
                job, head = await self._log.store.read(
                    lambda reader: (reader.job(id), reader.head())
                )
                told = head if after is None else after.position
                shown = _control("ready", cursor=str(self._log.cursor(told)))
                await outlet.send(retry + shown + _state(job, self._log.store.log_id))
                over = job is None or (job.status in ENDED and job.position <= told)
                # An end from before is not the last word: the job was tried again.
                known = 0 if job is None else job.position
                ends_s = self._clock.monotonic() + settings.max_age.total_seconds()
                while not over:
                    page, told = await self._read(told)
                    mine = [change for change in page if change.subject == id]
                    if mine:
                        log_id = self._log.store.log_id
                        frames = [
                            sse(event)
                            for change in mine
                            for event in events(change, _SELECTION, log_id)
                        ]
                        await outlet.send(b"".join(frames))
                        over = mine[-1].type in LAST and mine[-1].position >= known
                    if not over and self._clock.monotonic() >= ends_s:
                        reason = "max_age"
                        break
                    if not over and told >= self._log.head:
                        with anyio.move_on_after(settings.heartbeat.total_seconds()) as quiet:
                            await bell.wait()
                        if quiet.cancelled_caught:
                            await outlet.send(STILL_ALIVE)
                if over:
                    reason = "ended"
        except CursorExpired as error:
            await outlet.send(reset(error))
            return
        with anyio.move_on_after(1, shield=True):
            cursor = str(self._log.cursor(told))
            await outlet.send(retry + _control("goodbye", cursor=cursor, reason=reason))

    async def _read(self, after: int) -> tuple[list[Change], int]:
        page = await self._log.read(after, _PAGE, types=TYPES)
        return page.changes, page.through

    # ── Waking ──────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _listening(self, id: str) -> Iterator[_Bell]:
        bell = _Bell()
        self._bells.setdefault(id, []).append(bell)
        try:
            yield bell
        finally:
            self._bells[id].remove(bell)
            if not self._bells[id]:
                del self._bells[id]

    def _hear(self, committed: Committed | None) -> None:
        """The log's hook."""
        if not self._bells:
            return
        if committed is None:
            for bells in self._bells.values():
                for bell in bells:
                    bell.ring(foreign=True)
            return
        for change in committed.changes:
            if change.subject in self._bells and change.type in TYPES:
                for bell in self._bells[change.subject]:
                    bell.ring()


class _Bell:
    """Rung when there may be something to read; slower for what others have committed."""

    def __init__(self) -> None:
        self._rung = anyio.Event()
        self._foreign = anyio.Event()

    def ring(self, *, foreign: bool = False) -> None:
        (self._foreign if foreign else self._rung).set()

    async def wait(self) -> None:
        async with anyio.create_task_group() as tasks:

            async def others() -> None:
                await self._foreign.wait()
                await anyio.sleep(_FOREIGN_EVERY_S)
                tasks.cancel_scope.cancel()

            tasks.start_soon(others)
            await self._rung.wait()
            tasks.cancel_scope.cancel()
        self._rung, self._foreign = anyio.Event(), anyio.Event()


def _state(job: Job | None, log_id: str) -> bytes:
    if job is None:
        return b""
    return b"event: job\ndata: %b\n\n" % msgspec.json.encode(job_json(job, log_id))


def _control(name: str, **fields: str) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(fields))
