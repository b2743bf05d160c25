"""A stream of documents on its way in: NDJSON lines to results, one each, in order.

    body ─▶ lines ─▶ groups ─▶ prepare + embed ─▶ commit ─▶ results ─▶ spool ─▶ answer

Each arrow is a task with room for one group, so that one group is embedded while the one before
is committed. Memory is bounded by the groups in flight and the spool, whatever the client does.
A result line is given out only after its document is durable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import anyio
import msgspec
import structlog

from headwater import failpoints
from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import HeadwaterError, TooManyLines
from headwater.model import Library, Position, Written
from headwater.search.base import SearchEngine
from headwater.service.documents import Documents, in_order
from headwater.service.drafts import Prepared, Refusal
from headwater.service.embedding import OnFailure
from headwater.service.intake import Group, Intake, refused
from headwater.service.lines import Line, LineSplitter
from headwater.service.spool import Spool
from headwater.settings import IngestSettings, LimitSettings
from headwater.store.base import PutDocuments
from headwater.store.batch_commands import BeginBatch, EndBatch
from headwater.threads import Pool

Response = Literal["results", "errors", "summary"]
log_line = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_END_S = 5.0
_PENDING = b',"embedding":"pending_embedding"'


@dataclass
class Counts:
    """What became of a stream's lines so far."""

    received: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    pending: int = 0

    def as_dict(self) -> dict[str, int]:
        counts = {
            "received": self.received,
            "created": self.created,
            "updated": self.updated,
            "unchanged": self.unchanged,
            "failed": self.failed,
        }
        if self.pending:
            counts["pending"] = self.pending
        return counts


def error_json(error: HeadwaterError) -> dict[str, object]:
    """An error inside a stream: the same code and detail as an HTTP problem would have."""
    return {"code": error.code, "detail": error.detail, "retryable": error.retryable}


class Ingest:
    """Takes document streams in. Loop only; any number of streams at once."""

    def __init__(
        self,
        log: Log,
        engine: SearchEngine,
        documents: Documents,
        clock: Clock,
        settings: IngestSettings,
        limits: LimitSettings,
        pool: Pool,
        owner: str,
    ) -> None:
        """`owner` names this process to the others on the store."""
        self.owner = owner
        self.log = log
        self.engine = engine
        self.documents = documents
        self.clock = clock
        self.settings = settings
        self.limits = limits
        self.pool = pool
        self._left: dict[str, EndBatch] = {}
        """Ends of batches that the store has not taken yet, by id."""

    async def run(
        self,
        library: Library,
        body: AsyncIterator[bytes],
        answer: Callable[[bytes], Awaitable[None]],
        *,
        response: Response,
        batch_id: str,
        searchable: bool,
        on_failure: OnFailure = "pending",
    ) -> None:
        """Take one stream in and answer it, to its summary or its error line.

        `answer` may be arbitrarily slow. When the body or the answer breaks, what was committed
        stays, the batch is recorded as failed, and the exception goes on to the caller.
        """
        self.documents.preparer(library)  # refuse before the first line, if at all
        stream = _Stream(self, library, response, batch_id, searchable, on_failure)
        await stream.run(body, answer)

    async def end(self, command: EndBatch) -> None:
        """End the batch of a stream that broke off: in a moment, or before the next one begins.

        Raises nothing, so that it stands in no other error's way. When the process ends before,
        the batch has failed with it.
        """
        self._left[command.batch_id] = command
        with anyio.move_on_after(_END_S, shield=True):
            await self.end_left()
        if command.batch_id in self._left:
            log_line.warning("batch.end_not_written", batch=command.batch_id)

    async def end_left(self) -> None:
        """End what could not be ended; what still cannot be is left."""
        for batch_id, command in list(self._left.items()):
            try:
                await self.log.store.write(command)
            except HeadwaterError as error:
                log_line.debug("batch.store_failed", batch=batch_id, detail=error.detail)
            else:
                self._left.pop(batch_id, None)


@dataclass
class _Stream:
    ingest: Ingest
    library: Library
    response: Response
    batch_id: str
    searchable: bool
    on_failure: OnFailure
    counts: Counts = field(default_factory=Counts)
    begun: bool = False
    position: Position = 0
    through_line: int = 0

    async def run(
        self, body: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[None]]
    ) -> None:
        settings = self.ingest.settings
        self.started_s = self.ingest.clock.monotonic()
        self.spool = Spool(settings.spill_memory_bytes, settings.spill_file_bytes, self.ingest.pool)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._answer, answer)
                await self._work(body)
        except BaseException as error:
            if self.begun:
                counts = self.counts.as_dict()
                await self.ingest.end(EndBatch(self.batch_id, counts, _reason(error)))
            raise
        finally:
            self.spool.close()

    async def _answer(self, answer: Callable[[bytes], Awaitable[None]]) -> None:
        while (piece := await self.spool.get()) is not None:
            await answer(piece)

    async def _work(self, body: AsyncIterator[bytes]) -> None:
        """Read, prepare and commit to the end of the body, then say how it went."""
        self.failure: HeadwaterError | None = None
        ingest = self.ingest
        intake = Intake(
            ingest.documents,
            self.library,
            ingest.settings,
            ingest.pool,
            self._commit,
            line_bytes=ingest.limits.line_bytes,
            batch_id=self.batch_id,
            refuse=True,
            on_failure=self.on_failure,
        )
        await intake.run(self._lines(body))
        failpoints.reach("ingest.before_summary")
        await self._finish()
        self.spool.end()

    async def _lines(self, body: AsyncIterator[bytes]) -> AsyncIterator[list[Line]]:
        """The body's lines, as many as the limit allows."""
        splitter = LineSplitter(self.ingest.limits.line_bytes)
        async for piece in body:
            yield self._admitted(splitter.feed(piece))
            if self.failure is not None:
                return
        yield self._admitted(splitter.finish())

    def _admitted(self, lines: list[Line]) -> list[Line]:
        """What the limit allows of them; sets `failure` when there was more."""
        allowed = self.ingest.limits.stream_lines
        room = len(lines) if allowed is None else allowed - self.counts.received
        self.counts.received += min(len(lines), room)
        if len(lines) > room:
            self.failure = TooManyLines(
                f"a stream has at most {allowed} lines here; send the rest, from line "
                f"{lines[room].number} on, as another stream",
                line=lines[room].number,
            )
        return lines[:room]

    async def _commit(
        self, group: Group, prepared: list[Prepared | Refusal], command: PutDocuments | None
    ) -> None:
        if not self.begun:
            await self.ingest.end_left()
            self.begun = True
            self.position = await self.ingest.log.store.write(
                BeginBatch(self.library.number, self.batch_id, self.ingest.owner)
            )
        done: list[Written | Refusal] = []
        try:
            if command is not None:
                done = await self.ingest.documents.commit(command)
        except HeadwaterError as error:
            prepared = refused(prepared, error)
        results = in_order(prepared, done)
        failpoints.reach("ingest.before_result")
        self.through_line = group[-1].number
        await self.spool.put(self._result_lines(group, results))

    def _result_lines(self, group: Group, results: list[Written | Refusal]) -> bytes:
        counts, log_id = self.counts, self.ingest.log.store.log_id
        lines: list[bytes] = []
        for line, result in zip(group, results, strict=True):
            if isinstance(result, Refusal):
                counts.failed += 1
                if self.response != "summary":
                    lines.append(
                        _encode(
                            {
                                "type": "result",
                                "line": line.number,
                                "id": result.id,
                                "status": "failed",
                                "error": error_json(result.error),
                            }
                        )
                    )
                continue
            setattr(counts, result.status, getattr(counts, result.status) + 1)
            counts.pending += result.pending is not None
            self.position = max(self.position, result.position)
            if self.response == "results":
                lines.append(
                    b'{"type":"result","line":%d,"id":%b,"status":"%b","chunks":%d,'
                    b'"cursor":"%b.%d"%b}'
                    % (
                        line.number,
                        _encode(result.id),
                        result.status.encode(),
                        result.num_chunks,
                        log_id.encode(),
                        result.position,
                        _PENDING if result.pending else b"",
                    )
                )
        if self.response != "summary":
            lines.append(
                _encode(
                    {
                        "type": "checkpoint",
                        "durable_through_line": self.through_line,
                        "cursor": f"{log_id}.{self.position}",
                    }
                )
            )
        lines.append(b"")
        return b"\n".join(lines)

    async def _finish(self) -> None:
        if self.begun:
            self.position = await self._end(self.failure.detail if self.failure else None)
        log = self.ingest.log
        if self.failure is not None:
            line: dict[str, object] = {"type": "error", "error": error_json(self.failure)}
        else:
            line = {
                "type": "summary",
                **self.counts.as_dict(),
                "batch_id": self.batch_id if self.begun else None,
                "cursor": str(log.cursor(self.position or log.head)),
                "searchable": await self._is_searchable(),
                "took_ms": round((self.ingest.clock.monotonic() - self.started_s) * 1000),
            }
        await self.spool.put(_encode(line) + b"\n")

    async def _is_searchable(self) -> bool:
        if not self.searchable:
            return False
        try:
            await self.ingest.engine.caught_up(self.library.id, self.position)
        except HeadwaterError:
            return False
        return True

    async def _end(self, error: str | None) -> Position:
        position: Position = await self.ingest.log.store.write(
            EndBatch(self.batch_id, self.counts.as_dict(), error)
        )
        return position


def _reason(error: BaseException) -> str:
    """Why the stream broke, for the batch's last event."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, HeadwaterError):
        return error.detail
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return "the server stopped or the client left before the stream ended"
    return f"the stream broke off: {error}"
