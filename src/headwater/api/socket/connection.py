"""One open socket: reads requests, works on many at once, and tells what was subscribed to.

Its tasks have one parent, `run`, and end with it. It never works on more requests than the settings
say: with that many under way, or answers that the client does not take, it stops reading.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import structlog
from anyio.abc import TaskStatus

from headwater import __version__
from headwater.api.socket import frames
from headwater.api.socket.bucket import Bucket
from headwater.api.socket.channels import OpenSubscription, OpenWatch, SubscriptionVoice, Teller
from headwater.api.socket.close import CloseCode
from headwater.api.socket.exchange import Exchange
from headwater.api.socket.frames import RequestFrame, RequestId
from headwater.api.socket.framing import SharedFrames
from headwater.api.socket.outbox import Outbox
from headwater.api.socket.requests import ACTIONS, SubscribeData, WatchData, read
from headwater.api.socket.services import Services
from headwater.api.socket.statistics import SocketStatistics
from headwater.api.socket.wire import SocketClosed, Wire
from headwater.clock import rfc3339
from headwater.errors import (
    CursorExpired,
    DuplicateRequest,
    HeadwaterError,
    InvalidFrame,
    LibraryNotFound,
    RateLimited,
    SubscriptionNotFound,
    TooManySubscriptions,
    TooManyWatches,
    UnknownAction,
    WatchNotFound,
)
from headwater.feeds import OpenStreams, Subscription, Wish
from headwater.model import Cursor, Library, Position

log = structlog.get_logger(__name__)

LARGE_BYTES = 64 << 10
"""Messages above this are parsed in a thread: a MiB takes a few milliseconds."""
FINISH_S = 1.0
"""How long requests under way may still take when the server stops."""
FAREWELL_S = 2.0
"""How long subscriptions have to tell of their library's end."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Handler = Callable[["Connection", Any, Exchange], Awaitable[None]]
"""Does what an action says, its data read, and answers."""


class Connection:
    """Loop only."""

    def __init__(
        self,
        wire: Wire,
        receive: Receive,
        library: Library,
        services: Services,
        handlers: Mapping[str, Handler],
        statistics: SocketStatistics,
        shared: SharedFrames,
    ) -> None:
        settings = services.settings
        self.id = services.clock.uuid7()
        self.library_id = library.id
        self.wire = wire
        self.services = services
        self.statistics = statistics
        self.outbox = Outbox(wire, statistics, self._step_out)
        self.subscriptions: dict[str, OpenSubscription] = {}
        self.watches: dict[str, OpenWatch] = {}
        self._teller = Teller(self.outbox)
        self.in_flight: dict[RequestId, int] = {}
        self._shared = shared
        self._receive = receive
        self._handlers = handlers
        self._bucket = Bucket(settings.requests_per_second, settings.burst, services.clock)
        self._ended = anyio.Event()
        self._numbers = {"subscription": 0, "watch": 0}
        self._tasks: anyio.abc.TaskGroup | None = None

    # ── Life ────────────────────────────────────────────────────────────────────────────────────

    async def run(self, streams: OpenStreams) -> None:
        """Serve until the client leaves, the library ends, or `streams` are stopped.

        The socket is closed, or closing, when this returns, and no task of it is left.
        """
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._leave_with_client)
                tasks.start_soon(self._remind)
                tasks.start_soon(self._teller.run)
                with streams.open() as stopping:
                    await self.outbox.send(self._welcome())
                    await self._read()
                if stopping.cancelled_caught:
                    await self._say_goodbye()
                tasks.cancel_scope.cancel()
        except* SocketClosed:
            log.debug("websocket.client_gone", connection=self.id)
        finally:
            self._tasks = None
            self.subscriptions.clear()
            self.watches.clear()

    async def library_deleted(self, position: Position) -> None:
        """Close; subscriptions first tell what led up to it, the deletion included."""
        with anyio.move_on_after(FAREWELL_S), suppress(SocketClosed):
            for channel in list(self.subscriptions.values()):
                await channel.subscription.reached(position)
            error = LibraryNotFound(
                "this socket's library has been deleted; connect to another",
                library=self.library_id,
                cursor=str(self.services.log.cursor(position)),
            )
            await self.outbox.send(frames.error(error))
        self.wire.close(CloseCode.GONE, "the library was deleted")

    async def _leave_with_client(self) -> None:
        await self.wire.wait_closed()
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()

    async def _say_goodbye(self) -> None:
        """Let what is under way end, but not for ever."""
        with anyio.move_on_after(FINISH_S):
            while self.in_flight:
                await self._ended.wait()
        log_ = self.services.log
        frame = frames.GoodbyeFrame(
            cursor=str(log_.cursor(log_.head)),
            retry_ms=self.services.hub.settings.retry_ms,
            subscriptions={
                id: str(channel.subscription.cursor) for id, channel in self.subscriptions.items()
            },
        )
        with suppress(SocketClosed):
            self.outbox.put(frames.encode(frame))
        self.wire.close(CloseCode.GOING_AWAY, "the server stops")

    def _welcome(self) -> bytes:
        settings, services = self.services.settings, self.services
        return frames.encode(
            frames.WelcomeFrame(
                connection_id=self.id,
                library_id=self.library_id,
                cursor=str(services.log.cursor(services.log.head)),
                server_time=rfc3339(services.clock.now_us()),
                version=__version__,
                limits=frames.SocketLimits(
                    message_bytes=settings.message_bytes,
                    in_flight=settings.in_flight,
                    requests_per_second=settings.requests_per_second,
                    burst=settings.burst,
                    subscriptions=settings.subscriptions,
                    watches=settings.watches,
                    max_unacked=settings.max_unacked,
                    k=services.limits.k,
                ),
            )
        )

    async def library(self) -> Library:
        """The socket's library as it is now. Raises `LibraryNotFound`."""
        return await self.services.libraries.get(self.library_id)

    # ── Requests ────────────────────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        """Take requests until the client leaves, no more at once than the settings say."""
        assert self._tasks is not None
        settings = self.services.settings
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            waits_s = self._bucket.take()
            try:
                if text is None:
                    raise InvalidFrame("binary messages are not understood; send JSON as text")
                if len(text) > LARGE_BYTES:
                    request = await self.services.pool.call(frames.parse, text)
                else:
                    request = frames.parse(text)
                self._check(request, waits_s)
            except HeadwaterError as error:
                self.statistics.errors[error.code] += 1
                id = error.fields.pop("request_id", None)
                wrong = frames.error(error) if id is None else frames.failure(id, error)
                await self.outbox.send(wrong)
                if waits_s:
                    await anyio.sleep(waits_s)  # whoever goes on all the same is read no faster
                continue
            self.in_flight[request.request_id] = len(text)
            self._tasks.start_soon(self._work, request)
            while (
                len(self.in_flight) >= settings.in_flight
                or sum(self.in_flight.values()) > settings.message_bytes
            ):
                await self._ended.wait()

    def _check(self, request: RequestFrame, waits_s: float) -> None:
        id = request.request_id
        if id in self.in_flight:
            raise DuplicateRequest(
                f"request {id!r} is still being worked on; give each request its own id",
                request_id=id,
            )
        if waits_s:
            raise RateLimited(
                f"more than {self.services.settings.requests_per_second:g} requests a second; "
                "send this again later, and the next ones more slowly",
                request_id=id,
                retry_after_ms=max(1, round(waits_s * 1000)),
            )
        if request.action not in ACTIONS:
            raise UnknownAction(
                f"there is no action {request.action[:80]!r}; known: {', '.join(ACTIONS)}",
                request_id=id,
                known=list(ACTIONS),
            )

    async def _work(self, request: RequestFrame) -> None:
        id, action = request.request_id, request.action
        size = len(memoryview(request.data))
        exchange = Exchange(id, size, self.outbox)
        self.statistics.requests[action] += 1
        try:
            kind = ACTIONS[action][0]
            if size > LARGE_BYTES:
                data = await self.services.pool.call(read, action, kind, request.data)
            else:
                data = read(action, kind, request.data)
            await self._handlers[action](self, data, exchange)
        except HeadwaterError as error:
            self.statistics.errors[error.code] += 1
            await exchange.failed(error)
        except SocketClosed:
            raise
        except Exception as error:
            self.statistics.errors[HeadwaterError.code] += 1
            log.error("websocket.crashed", action=request.action, exc_info=error)
            await exchange.failed(HeadwaterError("a bug in the server; its log has the details"))
        finally:
            del self.in_flight[id]
            ended, self._ended = self._ended, anyio.Event()
            ended.set()

    # ── Subscriptions ───────────────────────────────────────────────────────────────────────────

    def subscribe(self, wish: Wish, after: Cursor, data: SubscribeData) -> str:
        """A new subscription, not yet telling. Raises `TooManySubscriptions`."""
        limit = self.services.settings.subscriptions
        if len(self.subscriptions) >= limit:
            raise TooManySubscriptions(
                f"this socket has {limit} subscriptions, which is the limit; end one, ask for "
                "more in one, or open another socket",
                limit=limit,
            )
        id = self._next_id("subscription")
        voice = SubscriptionVoice(id, self.outbox, self.statistics, self._shared)
        self.subscriptions[id] = OpenSubscription(
            Subscription(
                self.services.hub,
                wish,
                after,
                voice,
                self.services.clock,
                max_unacked=data.max_unacked,
            ),
            voice,
        )
        return id

    def tell(self, id: str) -> None:
        """Begin to tell a subscription, if it has not been ended already."""
        assert self._tasks is not None
        if channel := self.subscriptions.get(id):
            self._tasks.start_soon(self._tell, id, channel)

    async def _tell(self, id: str, channel: OpenSubscription) -> None:
        with channel.scope:
            try:
                await channel.subscription.run()
            except CursorExpired as error:
                self.statistics.errors[error.code] += 1
                await self.outbox.send(frames.ended(error, subscription_id=id))
        self.subscriptions.pop(id, None)

    def _step_out(self) -> None:
        """Nothing may be written for a while that does not ask whether it may be."""
        for channel in self.subscriptions.values():
            channel.subscription.step_out()

    def subscription(self, id: str) -> OpenSubscription:
        """Raises `SubscriptionNotFound`."""
        channel = self.subscriptions.get(id)
        if channel is None:
            raise SubscriptionNotFound(
                f"this socket has no subscription {id[:80]!r}; `subscribe` gives one",
                subscription_id=id[:80],
            )
        return channel

    # ── Live queries ────────────────────────────────────────────────────────────────────────────

    async def watch(self, library: Library, data: WatchData) -> OpenWatch:
        """A new live query that tells once its `begin` is set.

        Raises `TooManyWatches` and what `LiveSearches.watch` does.
        """
        assert self._tasks is not None
        limit = self.services.settings.watches
        if len(self.watches) >= limit:
            raise TooManyWatches(
                f"this socket has {limit} live queries, which is the limit; end one, or open "
                "another socket",
                limit=limit,
            )
        channel = OpenWatch(self._next_id("watch"), self.outbox, self.statistics)
        self.watches[channel.id] = channel
        try:
            await self._tasks.start(self._follow, library, data, channel)
        except BaseException:
            self.watches.pop(channel.id, None)
            raise
        return channel

    async def _follow(
        self,
        library: Library,
        data: WatchData,
        channel: OpenWatch,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        with channel.scope:
            async with self.services.live.watch(library, data, after=data.after) as watch:
                channel.watch = watch
                task_status.started()
                await channel.begin.wait()
                try:
                    await channel.tell(self._teller)
                except LibraryNotFound:
                    pass  # the socket is about to be closed, and says why
                except HeadwaterError as error:
                    self.statistics.errors[error.code] += 1
                    await self.outbox.send(frames.ended(error, watch_id=channel.id))
        self.watches.pop(channel.id, None)

    def open_watch(self, id: str) -> OpenWatch:
        """Raises `WatchNotFound`."""
        channel = self.watches.get(id)
        if channel is None or channel.watch is None:
            raise WatchNotFound(
                f"this socket has no live query {id[:80]!r}; `watch` gives one", watch_id=id[:80]
            )
        return channel

    async def _remind(self) -> None:
        """Say how far live queries are that have nothing to tell, all in few frames."""
        pause_s = self.services.hub.settings.progress.total_seconds()
        while True:
            await anyio.sleep(pause_s)
            if not self.watches:
                continue
            async with self.outbox.turn():
                told: dict[str, list[str]] = {}
                for channel in self.watches.values():
                    cursor = channel.progress()
                    if cursor is not None:
                        told.setdefault(cursor, []).append(channel.id)
                for cursor, ids in told.items():
                    frame = frames.ProgressFrame(
                        type="system", event="progress", cursor=cursor, watch_ids=ids
                    )
                    self.outbox.put(frames.encode(frame))

    def _next_id(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}-{self._numbers[kind]}"
