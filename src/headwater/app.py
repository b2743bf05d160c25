"""The wiring: builds every part from the settings and owns the root of all tasks.

The only place that knows concrete classes. Parts start in the order of their needs and stop in
the opposite one; when one of them breaks, the process stops rather than go on without it.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import FrameType
from typing import Any

import anyio
import structlog
from fastapi import FastAPI

from headwater import __version__
from headwater.api import openapi, problems
from headwater.api.alerts import alert_routes
from headwater.api.asyncapi import asyncapi_routes
from headwater.api.deletes import delete_routes
from headwater.api.direct import Application, Direct
from headwater.api.document_streams import document_stream_routes
from headwater.api.documents import document_routes
from headwater.api.embedders import embedder_routes
from headwater.api.events import event_routes
from headwater.api.health import health_routes
from headwater.api.job_events import JobEvents
from headwater.api.job_files import job_file_routes
from headwater.api.job_types import job_type_routes
from headwater.api.jobs import job_routes
from headwater.api.libraries import library_routes
from headwater.api.live import live_routes
from headwater.api.request_id import RequestId
from headwater.api.schedules import schedule_routes
from headwater.api.search import search_routes
from headwater.api.sessions import session_routes
from headwater.api.socket.actions import HANDLERS
from headwater.api.socket.routes import socket_routes
from headwater.api.socket.services import Services
from headwater.api.socket.session_routes import session_socket_route
from headwater.api.socket.sockets import Sockets
from headwater.api.workers import worker_routes
from headwater.changes import Log
from headwater.clock import Clock, SystemClock
from headwater.embed import Embedders
from headwater.feeds import Hub, OpenStreams
from headwater.jobs import Registry
from headwater.jobs.process import JobProcess
from headwater.live.bus import Bus
from headwater.model import WorkerRole
from headwater.search import LocalViews
from headwater.search.keyword_views import KeywordViews
from headwater.search.metadata_views import Kept, MetadataViews
from headwater.service.alert_matching import AlertMatching
from headwater.service.alerts import Alerts
from headwater.service.deletion import Deletions
from headwater.service.documents import Documents
from headwater.service.embedding import DocumentEmbedding
from headwater.service.export import Export
from headwater.service.inbox import Inbox
from headwater.service.ingest import Ingest
from headwater.service.job_types.batch_delete import BatchDelete
from headwater.service.job_types.batch_export import BatchExport
from headwater.service.job_types.batch_import import BatchImport
from headwater.service.job_types.expiry import Expiry
from headwater.service.job_types.index_jobs import IndexOptimize, IndexRebuild
from headwater.service.job_types.regenerate_embeddings import RegenerateEmbeddings
from headwater.service.job_types.retention import Retention
from headwater.service.job_types.retry_embeddings import RetryEmbeddings
from headwater.service.jobs import Jobs
from headwater.service.libraries import Libraries
from headwater.service.live import LiveSearches
from headwater.service.live_streams import LiveStreams
from headwater.service.presence import Presence
from headwater.service.render import documents_of
from headwater.service.rooms import Rooms
from headwater.service.schedules import Schedules, Workers
from headwater.service.search import Search
from headwater.service.sessions import Sessions
from headwater.service.upkeep import Upkeep
from headwater.service.uploads import Uploads
from headwater.settings import Settings
from headwater.store import DataFolder, SqliteStore
from headwater.threads import Loop, Pool

log_line = structlog.get_logger(__name__)


class Parts:
    """Everything one server process is made of, wired and not yet running.

    The folder's keeper writes index files and does the upkeep; with `visiting` this process will
    not become that. One of the role `worker` runs jobs and serves nobody; it will not either.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        visiting: bool = False,
        role: WorkerRole = "server",
    ) -> None:
        self.settings = settings
        self._clock = clock
        self.folder = DataFolder(settings.data)
        self.name = clock.uuid7()
        self._visiting = visiting
        self._serving = role == "server" and not visiting
        if not visiting:
            self.folder.enter(self.name)
        if self._serving:
            self.folder.claim()
        self.log = Log(settings.log.ring_bytes)
        self.store = SqliteStore(
            settings.data,
            settings.store,
            clock,
            on_commit=self.log.publish,
            on_foreign=self.log.hear,
        )
        self.embedders = Embedders(settings.embed, clock)
        self.engine = LocalViews(
            settings.data / "views",
            settings.search,
            self.log,
            clock,
            write_snapshots=lambda: self.folder.keeps,
        )
        self.keyword = KeywordViews(
            settings.data / "keyword",
            settings.search,
            self.log,
            clock,
            keeps=lambda: self.folder.keeps,
        )
        self.metadata = MetadataViews(
            settings.search,
            self.log,
            clock,
            memory_bytes=settings.search.memory_bytes // 4,
            kept=Kept(settings.data / "metadata", lambda: self.folder.keeps),
        )
        pool = Pool("work", 2)
        limits = settings.limits
        self.hub = Hub(self.log, settings.feeds, clock, documents_of(lambda: self.log.store.log_id))
        self.document_streams = OpenStreams("document streams", limits.streams)
        self.libraries = Libraries(self.log, self.embedders, clock, settings.ingest, limits)
        self.embedding = DocumentEmbedding(
            self.log, self.folder, self.embedders, clock, settings.embed
        )
        self.documents = Documents(
            self.log, self.engine, self.embedders, self.embedding, clock, limits, pool
        )
        self.deletions = Deletions(self.log, self.engine)
        self.ingest = Ingest(
            self.log, self.engine, self.documents, clock, settings.ingest, limits, pool, self.name
        )
        self.export = Export(self.log, self.hub, clock, settings.ingest, settings.store, pool)
        self.search = Search(
            self.log,
            self.engine,
            self.keyword,
            self.metadata,
            self.embedders,
            clock,
            settings.search,
            limits,
            pool,
        )
        self.live = LiveSearches(
            self.log,
            self.engine,
            self.metadata,
            self.embedders,
            clock,
            settings.live,
            limits,
            patience=settings.search.max_wait,
        )
        self.live_streams = LiveStreams(
            self.live, settings.feeds, clock, limit=settings.live.max_watches
        )
        self.alerts = Alerts(self.log, self.live, clock, settings.live)
        self.alert_matching = AlertMatching(self.log, self.folder, clock, settings.live)
        self.bus = Bus(settings.data / "bus", self.name)
        self.rooms = Rooms(self.log, self.libraries, self.live, self.bus)
        self.presence = Presence(
            self.log,
            self.folder,
            self.bus,
            clock,
            settings.sessions,
            self.name,
            lambda: self.rooms.people,
        )
        self.sessions = Sessions(
            self.log,
            self.libraries,
            self.live,
            self.rooms,
            self.presence,
            clock,
            settings.sessions,
            self.name,
        )
        self.sockets = Sockets(
            Services(
                self.log,
                self.hub,
                self.libraries,
                self.documents,
                self.search,
                self.live,
                clock,
                settings.websocket,
                limits,
                pool,
            ),
            HANDLERS,
        )
        self.job_types = Registry()
        self._add_job_types()
        folder = settings.data / "jobs"
        self.uploads = Uploads(settings.transfer.upload_bytes)
        self.expiry = Expiry(self.folder, folder, settings.transfer.export_keep, clock)
        self.jobs = Jobs(self.log, self.job_types, self.libraries, clock, settings.jobs, folder)
        self.schedules = Schedules(self.log, self.jobs, clock, settings.jobs)
        self.workers = Workers(self.log, self.jobs)
        self.job_events = JobEvents(self.log, self.hub, self.jobs, clock)
        self.job_process = JobProcess(
            self.log,
            self.folder,
            self.job_types,
            clock,
            settings.jobs,
            folder,
            self.name,
            role,
            pool,
        )
        self.upkeep = Upkeep(self.log, self.folder, clock, settings.log)
        self._warm = "the views are being loaded"

    def _add_job_types(self) -> None:
        """What this process runs; those of the search views only where there are any."""
        add, log, libraries, clock = self.job_types.add, self.log, self.libraries, self._clock
        settings = self.settings
        inbox = Inbox(settings.transfer.import_folder)
        add(BatchImport(libraries, self.ingest, inbox, settings.transfer))
        add(BatchExport(log, libraries, clock, settings.transfer, settings.store))
        add(BatchDelete(log, libraries))
        add(RetryEmbeddings(log, libraries, self.embedding, clock))
        add(Retention(log, clock, settings.log))
        engine = self.engine if self._serving else None
        add(RegenerateEmbeddings(libraries, self.embedders, engine, settings.limits))
        if self._serving:
            add(IndexRebuild(libraries, clock, self.engine, self.keyword, self.metadata))
            add(IndexOptimize(libraries, clock, self.engine))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start everything; on leaving, end the streams, then stop in the opposite order."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(started(self.store.run))
            head = await self.store.read(lambda reader: reader.head())
            self.log.attach(self.store, head)
            await stack.enter_async_context(started(self.embedders.run))
            if self._serving or self._visiting:  # a worker's jobs need no views
                await stack.enter_async_context(started(self.engine.run))
                await stack.enter_async_context(started(self.keyword.run))
                await stack.enter_async_context(started(self.metadata.run))
                await stack.enter_async_context(started(self.search.run))
                await stack.enter_async_context(started(self.live.run))
                await stack.enter_async_context(started(self.sockets.run))
                await stack.enter_async_context(started(self.hub.run))
            if self._serving:
                await stack.enter_async_context(started(self.upkeep.run))
                await stack.enter_async_context(started(self.expiry.run))
                await stack.enter_async_context(started(self.embedding.run))
                await stack.enter_async_context(started(self.alert_matching.run))
                await stack.enter_async_context(started(self.bus.run))
                await stack.enter_async_context(started(self.rooms.run))
                await stack.enter_async_context(started(self.presence.run))
            if not self._visiting:
                await stack.enter_async_context(started(self.job_process.run))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            if self._serving or self._visiting:
                tasks.start_soon(self._load_views)
            try:
                yield
            finally:
                self.end_streams()
                tasks.cancel_scope.cancel()

    def end_streams(self) -> None:
        """Let every open stream say goodbye, and open no more."""
        self.hub.streams.stop()
        self.document_streams.stop()
        self.live_streams.streams.stop()
        self.sockets.streams.stop()

    def readiness(self) -> dict[str, str]:
        """Each part's state: `ready`, or why it is not."""
        waiting = [
            f"{status.library_id} is {status.state}"
            + (f": {status.reason}" if status.reason else "")
            for status in self.engine.status()
            if status.state != "ready"
        ]
        views = self._warm or (f"{len(waiting)} not ready: {waiting[0]}" if waiting else "ready")
        stopping = self.hub.streams.stopping
        return {
            "store": "ready",
            "embedder": "ready",
            "views": views,
            "feeds": "the server is stopping" if stopping else "ready",
        }

    async def _load_views(self) -> None:
        """Load the views of the libraries written to last, as far as memory goes."""
        libraries = []
        after = 0
        while page := await self.libraries.page(after, 500):
            libraries += [library for library in page if library.chunks]
            after = page[-1].number
        libraries.sort(key=lambda library: library.position, reverse=True)
        await self.engine.warm(libraries)
        await self.keyword.warm(libraries)
        self._warm = ""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Built from `HEADWATER_…` variables when no settings are given."""
    settings = settings or Settings()
    clock = SystemClock()
    parts = Parts(settings, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        try:
            async with parts.running(), anyio.create_task_group() as sockets:
                _end_streams_on_signal(parts.end_streams)
                # What is alive now lives as long as the process: keep full collections away
                # from it, and make them rare (they pause 80–120 ms with a large heap).
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000, 20, 100)
                # Each socket's task ends with its connection, and those have ended by now.
                yield {"sockets": sockets}
        except Exception:
            log_line.exception("server.broken")
            signal.raise_signal(signal.SIGTERM)
            raise

    app = Application(
        title="Headwater", version=__version__, lifespan=lifespan, redirect_slashes=False
    )
    searches, search = search_routes(
        parts.search, parts.libraries, settings.limits, settings.feeds, clock
    )
    documents, create = document_routes(
        parts.log, parts.libraries, parts.documents, settings.limits
    )
    app.put_in_front(partial(Direct, handlers={"search": search, "documents": create}))
    app.put_in_front(partial(RequestId, clock=clock))
    problems.install(app)
    openapi.install(app, __version__)
    app.include_router(searches)
    app.include_router(
        live_routes(
            parts.live,
            parts.live_streams,
            parts.alert_matching,
            parts.libraries,
            settings.limits,
            settings.feeds,
        )
    )
    app.include_router(alert_routes(parts.log, parts.libraries, parts.alerts, settings.limits))
    app.include_router(health_routes(parts.readiness))
    app.include_router(library_routes(parts.log, parts.libraries, parts.engine, settings.limits))
    app.include_router(
        document_stream_routes(
            parts.libraries,
            parts.ingest,
            parts.export,
            parts.document_streams,
            settings.feeds,
            clock,
        )
    )
    app.include_router(documents)
    app.include_router(delete_routes(parts.log, parts.libraries, parts.deletions, settings.limits))
    app.include_router(embedder_routes(parts.embedders))
    app.include_router(job_type_routes(parts.log, parts.jobs, parts.uploads, settings.limits))
    app.include_router(job_file_routes(parts.jobs, stall=settings.feeds.stall))
    app.include_router(
        job_routes(parts.log, parts.jobs, parts.job_events, settings.jobs, settings.limits)
    )
    app.include_router(schedule_routes(parts.log, parts.schedules, settings.limits))
    app.include_router(worker_routes(parts.workers, settings.limits))
    app.include_router(
        session_routes(parts.log, parts.libraries, parts.sessions, parts.live, settings.limits)
    )
    app.include_router(socket_routes(parts.sockets, parts.sessions))
    app.include_router(asyncapi_routes(__version__))
    app.router.routes.append(session_socket_route(parts.sockets, parts.sessions))
    app.include_router(event_routes(parts.log, parts.hub, parts.libraries, settings.limits))
    return app


Run = Callable[..., Coroutine[Any, Any, None]]


@asynccontextmanager
async def started(run: Run) -> AsyncIterator[None]:
    """`run` as a task that has said started; cancelled and awaited on leaving."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(run)
        yield
        tasks.cancel_scope.cancel()


def _end_streams_on_signal(end_streams: Callable[[], None]) -> None:
    """End open streams as soon as the process is told to stop.

    The server waits for its connections before it ends the lifespan, and an endless stream would
    keep it waiting: so this goes in front of the server's own handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = Loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)

        def handle(number: int, frame: FrameType | None, before: signal._HANDLER = before) -> None:
            loop.post(end_streams)
            if callable(before):
                before(number, frame)

        signal.signal(number, handle)
