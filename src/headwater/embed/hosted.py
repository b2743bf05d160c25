"""An embedder as this server runs it: started when first needed, watched, with query memory.

`registry.py` holds one around every embedder. It starts the embedder as a child of the registry's
tasks, so that no request's end can stop it, and starts it anew after it has failed. What comes out
of an embedder is checked here: a plug-in must not be able to put a wrong shape into an index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Literal

import anyio
import anyio.abc
import numpy as np
import structlog

from headwater.clock import Clock
from headwater.embed.base import Embedder, Kind
from headwater.embed.figures import Durations
from headwater.embed.query_cache import QueryCache
from headwater.errors import EmbedderFailed, EmbedderUnavailable, HeadwaterError, ShuttingDown
from headwater.model import Vectors
from headwater.threads import Pool

log = structlog.get_logger(__name__)

State = Literal["idle", "starting", "running", "failed"]

_RETRY_START_S = 5.0
"""After a failed start, callers get its error for so long before it is tried again."""


class Hosted(Embedder):
    """Loop only. `make` is called off the loop, for it may import much."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Embedder],
        cache: QueryCache,
        clock: Clock,
        *,
        identity: str = "",
        dimension: int = 0,
    ) -> None:
        """`identity` and `dimension` where they are known before it has started."""
        self.name = name
        self.identity = identity
        self.dimension = dimension
        self.state: State = "idle"
        self._make = make
        self._cache = cache
        self._clock = clock
        self._inner: Embedder | None = None
        self._error: HeadwaterError | None = None
        self._failed_at = 0.0
        self._settled = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._durations: dict[Kind, Durations] = {"document": Durations(), "query": Durations()}
        self._texts: dict[Kind, int] = {"document": 0, "query": 0}
        self._errors: dict[str, int] = {}

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Let the embedder be started from now on, as a child of this; end it when cancelled."""
        async with anyio.create_task_group() as group:
            self.attach(group)
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self.attach(None)

    def attach(self, group: anyio.abc.TaskGroup | None) -> None:
        """Start the embedder in `group` when it is needed; None: start it no more."""
        self._group = group

    async def ready(self) -> None:
        """Start it if need be, and return when it runs. Raises what its start failed with."""
        while self._inner is None:
            if self._group is None:
                raise ShuttingDown(f"the embedder {self.name!r} is not running; retry in a moment")
            if self._error is not None:
                if self._clock.monotonic() - self._failed_at < _RETRY_START_S:
                    raise copy(self._error)
                self._error = None
            if self.state != "starting":
                self.state = "starting"
                self._settled = anyio.Event()
                self._group.start_soon(self._main)
            await self._settled.wait()

    def stop(self) -> None:
        """End it for good."""
        if self._scope is not None:
            self._scope.cancel()

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """See `Embedder.embed`; also raises what the embedder's start failed with."""
        inner = self._inner
        if inner is None:
            await self.ready()
            inner = self._inner
            if inner is None:
                raise EmbedderUnavailable(f"the embedder {self.name!r} has stopped; try again")
        if kind == "query":
            return await self._queries(inner, texts)
        return await self._ask(inner, texts, kind)

    def statistics(self) -> dict[str, Any]:
        """What this has seen of it, and under `provider` what it says itself."""
        figures: dict[str, Any] = {
            "name": self.name,
            "identity": self.identity or None,
            "dimension": self.dimension or None,
            "state": self.state,
            "error": self._error.detail if self._error else None,
            "errors": dict(self._errors),
        }
        for kind, durations in self._durations.items():
            figures[kind] = {"texts": self._texts[kind], **durations.statistics()}
        figures["provider"] = (self._inner.statistics() if self._inner else {}) or None
        return figures

    async def _queries(self, inner: Embedder, texts: Sequence[str]) -> Vectors:
        known = [self._cache.get(inner.identity, text) for text in texts]
        missing = [index for index, vector in enumerate(known) if vector is None]
        if len(missing) == len(texts):
            vectors = await self._ask(inner, texts, "query")
        else:
            vectors = np.empty((len(texts), inner.dimension), np.float32)
            for index, vector in enumerate(known):
                if vector is not None:
                    vectors[index] = vector
            if missing:
                asked = [texts[index] for index in missing]
                vectors[missing] = await self._ask(inner, asked, "query")
        for index in missing:
            self._cache.put(inner.identity, texts[index], vectors[index])
        return vectors

    async def _ask(self, inner: Embedder, texts: Sequence[str], kind: Kind) -> Vectors:
        began = self._clock.monotonic()
        try:
            vectors = await inner.embed(texts, kind)
        except HeadwaterError as error:
            self._errors[error.code] = self._errors.get(error.code, 0) + 1
            raise
        except Exception as error:
            # A plug-in's own: told as what it is, an embedder that failed.
            code = EmbedderFailed.code
            self._errors[code] = self._errors.get(code, 0) + 1
            log.exception("embedder.broken", embedder=self.name)
            raise EmbedderFailed(
                f"the embedder {self.name!r} broke ({type(error).__name__}); the server's log "
                "says where"
            ) from error
        self._durations[kind].add(self._clock.monotonic() - began)
        self._texts[kind] += len(texts)
        if not isinstance(vectors, np.ndarray):
            raise EmbedderFailed(
                f"the embedder {self.name!r} gave a {type(vectors).__name__}, not a numpy array; "
                "it needs mending"
            )
        if vectors.shape != (len(texts), inner.dimension) or vectors.dtype != np.float32:
            raise EmbedderFailed(
                f"the embedder {self.name!r} gave {vectors.dtype} {vectors.shape} for "
                f"{len(texts)} texts and {inner.dimension} dimensions; it needs mending"
            )
        if not np.isfinite(vectors).all():
            raise EmbedderFailed(f"the embedder {self.name!r} gave a vector that is not finite")
        return vectors

    async def _main(self) -> None:
        stopped = f"the embedder {self.name!r} has stopped; retry in a moment"
        self._error = ShuttingDown(stopped)
        try:
            with anyio.CancelScope() as self._scope:
                try:
                    inner = await Pool("embed-make", 1).call(self._make)
                    await inner.run(task_status=_Started(lambda: self._on_started(inner)))
                    self._error = EmbedderUnavailable(stopped)
                # The task's root: callers hear of it. No plug-in ends the server.
                except (Exception, SystemExit) as raised:  # noqa: BLE001 – see above
                    self._error = self._translate(raised, at_work=self.state == "running")
                log.warning("embedder.stopped", embedder=self.name, detail=self._error.detail)
        finally:
            self._inner = None
            self._failed_at = self._clock.monotonic()
            self.state = "failed"
            self._settled.set()

    def _translate(self, raised: BaseException, *, at_work: bool) -> HeadwaterError:
        while isinstance(raised, ExceptionGroup) and len(raised.exceptions) == 1:
            raised = raised.exceptions[0]
        if isinstance(raised, HeadwaterError):
            return raised
        log.error("embedder.broken", embedder=self.name, exc_info=raised)
        return EmbedderFailed(
            f"the embedder {self.name!r} broke ({type(raised).__name__}: {str(raised)[:200]})",
            retryable=at_work,  # it has worked before: what it was asked for is not to blame
        )

    def _on_started(self, inner: Embedder) -> None:
        self._error = None
        self.identity = inner.identity
        self.dimension = int(inner.dimension)  # numpy has integers of its own
        self._inner = inner
        self.state = "running"
        self._settled.set()


class _Started(anyio.abc.TaskStatus[None]):
    """Calls back when an embedder says that it has started."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def started(self, value: None = None) -> None:
        self._call()
