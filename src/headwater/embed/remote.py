"""An embedder behind HTTP: what every provider needs around its calls.

`registry.py` makes one per model and width. Requests of all libraries share calls; documents and
queries have backlogs and calls of their own, so that neither waits for the other. A call that
fails is made again while its callers have time; what is given up raises one of two errors:
`EmbedderUnavailable` (try later) or `EmbedderFailed` (a person must change something). It must
never drop a text silently, mix up an order, or hold the loop.

    embed → Backlog → worker → Pace → Breaker → HTTP → Provider.read → Request
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from itertools import chain
from typing import Any

import anyio
import anyio.abc
import httpx
import numpy as np
import structlog

from headwater import __version__
from headwater.clock import Clock, chance
from headwater.embed.backlog import Backlog, Piece, Request
from headwater.embed.base import Embedder, Kind
from headwater.embed.breaker import Breaker
from headwater.embed.figures import Usage
from headwater.embed.pace import Pace
from headwater.embed.post import KeyRefused, Passing, Rejected, post
from headwater.embed.provider import Call, Provider, WrongAnswer
from headwater.embed.retry import backoff_s
from headwater.errors import EmbedderFailed, EmbedderUnavailable, HeadwaterError, ShuttingDown
from headwater.model import Vectors
from headwater.settings import EmbedSettings
from headwater.threads import Pool

log = structlog.get_logger(__name__)

KINDS: tuple[Kind, ...] = ("document", "query")

_SAME_REFUSALS = 3
"""So many single texts refused, and none taken: it is not the texts."""


class RemoteEmbedder(Embedder):
    """Loop only. Without a `dimension` the provider is asked for its own when `run` starts."""

    def __init__(
        self,
        provider: Provider,
        dimension: int | None,
        settings: EmbedSettings,
        clock: Clock,
        jitter: Callable[[], float] = chance,
    ) -> None:
        self.name = f"{provider.kind}:{provider.model}"
        self._provider = provider
        self._set_dimension(dimension or 0)
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._linger_s = settings.linger_ms / 1000
        self._most_inputs = min(settings.max_inputs, provider.max_inputs)
        self._patience_s: dict[Kind, float] = {
            "document": settings.document_deadline.total_seconds(),
            "query": settings.query_deadline.total_seconds(),
        }
        self._backlogs = {kind: Backlog(self.name, settings.max_waiting) for kind in KINDS}
        self._pace = Pace(settings.inputs_per_minute, settings.tokens_per_minute, clock.monotonic)
        self._breaker = Breaker(
            settings.breaker_failures, settings.breaker_open.total_seconds(), clock.monotonic
        )
        self._usage = Usage(settings.price_per_million_tokens)
        self._open: set[Request] = set()
        self._keys = Pool("embed-key", 1)
        # Reading the certificates takes some 50 ms: here, off the loop, and only where needed.
        self._tls = httpx.create_ssl_context() if provider.base_url.startswith("https:") else False
        self._client: httpx.AsyncClient | None = None

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; who still waits then gets `ShuttingDown`.

        Raises `EmbedderUnavailable` or `EmbedderFailed` when the dimension cannot be learned.
        """
        calls = 2 * self._settings.concurrency
        limits = httpx.Limits(max_connections=calls, max_keepalive_connections=calls)
        try:
            async with httpx.AsyncClient(
                verify=self._tls, limits=limits, headers={"user-agent": f"headwater/{__version__}"}
            ) as self._client:
                if not self.dimension:
                    self._set_dimension(await self._native_dimension())
                async with anyio.create_task_group() as workers:
                    for kind in KINDS:
                        for _ in range(self._settings.concurrency):
                            workers.start_soon(self._work, kind)
                    task_status.started()
        finally:
            self._client = None
            for request in self._open:
                request.fail(ShuttingDown(f"the embedder {self.name!r} is stopping; retry"))

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """Cancelling takes back what has not been sent.

        Raises `EmbedderUnavailable`, `EmbedderFailed` (`text_index` is the refused text, when it
        was one), `Overloaded` when too many texts wait, `ShuttingDown`.
        """
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        # Providers refuse blank texts. What was already right is sent as it is.
        wanted = [index for index, text in enumerate(texts) if text and not text.isspace()]
        if not wanted:
            return vectors
        if self._client is None:
            raise ShuttingDown(f"the embedder {self.name!r} is not running; retry in a moment")
        if (refused_s := self._breaker.refuses_s) is not None:
            self._usage.went_wrong("breaker")
            raise self._left_alone(refused_s)
        request = Request(
            [_legal(texts[index]) for index in wanted],
            self.dimension,
            self._patience_s[kind],
            self._clock.monotonic,
        )
        backlog = self._backlogs[kind]
        backlog.put(request)
        self._open.add(request)
        try:
            answered = await request.wait()
        finally:
            request.abandon()
            self._open.discard(request)
            backlog.drop(request)
        if not answered:
            self._usage.went_wrong("deadline")
            raise EmbedderUnavailable(
                f"the embedder {self.name!r} has not answered within "
                f"{self._patience_s[kind]:g} seconds; try again"
            )
        if request.error is not None:
            index = request.error.fields.pop("text_index", None)
            if index is not None:
                request.error.fields["text_index"] = wanted[index]
            raise request.error
        vectors[wanted] = request.vectors
        return vectors

    def statistics(self) -> dict[str, Any]:
        refused_s = self._breaker.refuses_s
        return {
            "host": self._provider.host,
            "key": self._provider.has_key,
            **self._usage.statistics(),
            "inputs_per_call": self._most_inputs,
            "waiting": {kind: self._backlogs[kind].waiting for kind in KINDS},
            "breaker": {
                "state": self._breaker.state,
                "opened": self._breaker.opened,
                "retry_after_s": None if refused_s is None else round(refused_s, 3),
            },
        }

    def _set_dimension(self, dimension: int) -> None:
        self.dimension = dimension
        self.identity = f"{self.name}:{dimension}@{self._provider.host}"

    async def _native_dimension(self) -> int:
        probe = Request(["word"], 0, self._patience_s["query"], self._clock.monotonic)
        try:
            return int((await self._ask("query", [Piece(probe, 0, 1)])).shape[1])
        except (Rejected, WrongAnswer) as reason:
            raise self._blamed(reason) from reason

    async def _work(self, kind: Kind) -> None:
        while True:
            pieces = await self._backlogs[kind].take(lambda: self._most_inputs, self._linger_s)
            delivery = _Delivery()
            with anyio.CancelScope() as scope:
                _end_when_abandoned(scope, [piece.request for piece in pieces])
                await self._deliver(kind, pieces, delivery)
            if delivery.split and delivery.largest and not delivery.refused and not delivery.wrong:
                # What the provider refused was the size: do not offer so much again.
                self._most_inputs = min(self._most_inputs, delivery.largest)
                log.info("embedder.smaller_calls", embedder=self.name, inputs=self._most_inputs)

    async def _deliver(self, kind: Kind, pieces: Sequence[Piece], delivery: _Delivery) -> None:
        """Answer these pieces, one way or the other."""
        pieces = [piece for piece in pieces if not piece.request.over]
        count = sum(piece.count for piece in pieces)
        if not count:
            return
        try:
            # What is wrong time after time is found in the end by halving, each part asked once.
            vectors = await self._ask(kind, pieces, insist=not delivery.wrong)
        except (Rejected, WrongAnswer) as reason:
            error = self._blamed(reason)
            delivery.wrong |= isinstance(reason, WrongAnswer)
            if delivery.refused >= _SAME_REFUSALS and not delivery.largest:
                self._give_up(pieces, error)
            elif count == 1:
                delivery.refused += 1
                error.fields["text_index"] = pieces[0].start
                self._give_up(pieces, error)
            else:
                delivery.split = True
                self._usage.splits += 1
                for half in _halves(pieces, count):
                    await self._deliver(kind, half, delivery)
        except HeadwaterError as error:
            self._give_up(pieces, error)
        else:
            delivery.largest = max(delivery.largest, count)
            start = 0
            for piece in pieces:
                piece.request.fill(piece.start, vectors[start : start + piece.count])
                start += piece.count

    def _blamed(self, reason: Rejected | WrongAnswer) -> EmbedderFailed:
        """What callers are told when their text, or the model, may be to blame."""
        host, model = self._provider.host, self._provider.model
        if isinstance(reason, Rejected):
            return EmbedderFailed(
                f"{host} refuses a text: {reason.said}; change or shorten it, "
                f"or check the model {model!r}"
            )
        return EmbedderFailed(
            f"{host} answered {reason}; check that it serves the embedding model {model!r}",
            retryable=True,
        )

    def _give_up(self, pieces: Sequence[Piece], error: HeadwaterError) -> None:
        pieces = [piece for piece in pieces if not piece.request.over]
        if not pieces:
            return
        self._usage.went_wrong(error.code)
        log.warning("embedder.gave_up", embedder=self.name, code=error.code, detail=error.detail)
        for piece in pieces:
            # Each caller raises an error of its own: a traceback must not grow in two tasks.
            piece.request.fail(copy(error))

    async def _ask(self, kind: Kind, pieces: Sequence[Piece], *, insist: bool = True) -> Vectors:
        """One batch, with retries, after a wrong answer only if `insist`.

        float32, (n, dimension), unit length. Raises `Rejected`, `WrongAnswer`,
        `EmbedderUnavailable`, `EmbedderFailed`.
        """
        texts = list(chain.from_iterable(piece.texts for piece in pieces))
        attempt = 0
        while True:
            await self._await_turn(kind, texts, pieces)
            try:
                return await self._attempt(kind, texts, pieces)
            except _AskAgain:
                continue
            except Passing as failure:
                self._usage.went_wrong(failure.kind)
                wait_s = self._wait_s(attempt, failure.retry_after_s)
                if failure.retry_after_s is not None:
                    self._pace.pause(failure.retry_after_s)
                if attempt == self._settings.retries or wait_s >= self._left_s(pieces):
                    raise EmbedderUnavailable(
                        f"{self._provider.host} {failure.reason}; try again later",
                        retry_after_s=round(wait_s, 3),
                    ) from failure
            except WrongAnswer:
                self._usage.went_wrong("wrong_answer")
                wait_s = self._wait_s(attempt, None)
                spent = attempt == self._settings.retries or not insist
                if spent or wait_s >= self._left_s(pieces):
                    raise
            attempt += 1
            self._usage.retries += 1
            await anyio.sleep(wait_s)

    def _left_s(self, pieces: Sequence[Piece]) -> float:
        return max(piece.request.deadline for piece in pieces) - self._clock.monotonic()

    async def _await_turn(self, kind: Kind, texts: Sequence[str], pieces: Sequence[Piece]) -> None:
        tokens = sum(map(len, texts)) // 4
        # A deadline moves on when other calls answer other parts of its request.
        while (left_s := self._left_s(pieces)) > 0:
            if (paused_s := self._pace.paused_s) >= left_s:
                self._usage.went_wrong("pace")
                raise EmbedderUnavailable(
                    f"{self._provider.host} has asked to be left alone for a while; try again in "
                    f"{paused_s:.0f} seconds",
                    retry_after_s=round(paused_s, 3),
                )
            with anyio.move_on_after(left_s):
                await self._pace.take(len(texts), tokens, urgent=kind == "query")
                return
        self._usage.went_wrong("pace")
        raise EmbedderUnavailable(
            f"the rate at which {self._provider.host} may be asked is used up; slow down and "
            "try again"
        )

    async def _attempt(self, kind: Kind, texts: Sequence[str], pieces: Sequence[Piece]) -> Vectors:
        """One call. Raises `Passing`, `Rejected`, `WrongAnswer`, `EmbedderFailed`, `_AskAgain`."""
        if self._client is None:
            raise ShuttingDown(f"the embedder {self.name!r} is stopping; retry")
        if not self._breaker.admit():
            raise self._left_alone(self._breaker.refuses_s or 0.0)
        alive: bool | None = None
        timeout_s = min(self._settings.timeout.total_seconds(), self._left_s(pieces))
        self._usage.in_flight += 1
        began = self._clock.monotonic()
        try:
            call = self._provider.call(texts, kind)
            body = await post(
                self._client,
                self._provider,
                call,
                timeout_s=max(0.001, timeout_s),
                connect_s=self._settings.connect_timeout.total_seconds(),
                now_us=self._clock.now_us,
            )
            alive = True
        except Passing as failure:
            alive = failure.alive
            raise
        except Rejected as rejected:
            alive = True
            if self._provider.adapt(call, rejected.said):
                raise _AskAgain from rejected
            if call.width is not None and "dimension" in rejected.said.lower():
                raise EmbedderFailed(
                    f"{self._provider.host} does not give vectors of {call.width} dimensions "
                    f"with the model {self._provider.model!r}: {rejected.said}; use a library of "
                    "the model's own dimension"
                ) from rejected
            raise
        except KeyRefused as refused:
            alive = True
            if await self._keys.call(self._provider.renew_key, call):
                raise _AskAgain from refused
            raise EmbedderFailed(refused.reason) from refused
        except EmbedderFailed:
            alive = True
            raise
        finally:
            self._usage.in_flight -= 1
            self._usage.calls.add(self._clock.monotonic() - began)
            if alive:
                self._breaker.succeeded()
            elif alive is False or any(piece.request.late for piece in pieces):
                self._breaker.failed()
            else:  # given up: its callers have gone, or the embedder stops
                self._breaker.released()
        answer = self._provider.read(body, len(texts))
        self._usage.inputs += len(texts)
        self._usage.tokens += answer.tokens
        return self._fit(answer.vectors, call)

    def _fit(self, vectors: Vectors, call: Call) -> Vectors:
        """At unit length and of the library's width. Raises `_AskAgain`, `EmbedderFailed`."""
        width = vectors.shape[1]
        if self.dimension and width != self.dimension:
            if call.width is None:
                self._provider.width = self.dimension
                raise _AskAgain
            raise EmbedderFailed(
                f"the model {self._provider.model!r} at {self._provider.host} makes vectors of "
                f"{width} dimensions, also when asked for {self.dimension}; use a library of "
                f"dimension {width}"
            )
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        vectors /= np.maximum(norms, 1e-12).astype(np.float32)[:, None]
        return vectors

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        settings = self._settings
        wait_s = backoff_s(
            attempt,
            settings.backoff.total_seconds(),
            settings.backoff_max.total_seconds(),
            self._jitter,
        )
        return wait_s if retry_after_s is None else retry_after_s + min(wait_s, 0.1)

    def _left_alone(self, seconds: float) -> EmbedderUnavailable:
        return EmbedderUnavailable(
            f"{self._provider.host} has failed {self._settings.breaker_failures} times in a row "
            f"and is left alone for {seconds:.1f} more seconds; try again after that",
            retry_after_s=round(seconds, 3),
        )


class _AskAgain(Exception):
    """The same texts at once, with the call written otherwise."""


class _Delivery:
    """What became of one batch in its parts."""

    split = False
    wrong = False
    refused = 0
    largest = 0


def _end_when_abandoned(scope: anyio.CancelScope, requests: Sequence[Request]) -> None:
    """A call that nobody waits for must not keep its place from one that somebody does."""

    def look() -> None:
        if all(request.over for request in requests):
            scope.cancel()

    for request in requests:
        request.on_abandon(look)


def _halves(pieces: Sequence[Piece], count: int) -> tuple[list[Piece], list[Piece]]:
    first: list[Piece] = []
    second: list[Piece] = []
    room = count // 2
    for piece in pieces:
        here = min(room, piece.count)
        room -= here
        if here:
            first.append(Piece(piece.request, piece.start, here))
        if here < piece.count:
            second.append(Piece(piece.request, piece.start + here, piece.count - here))
    return first, second


def _legal(text: str) -> str:
    """Half a surrogate pair, which JSON can carry and UTF-8 cannot, becomes `?`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
