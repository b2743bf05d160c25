"""`batch_import`: documents of a file, or sent with the job, into a library.

They take the way of a stream (`service/intake.py`). Each group of documents is one transaction with
the place in the file that it ends at: an import that was cut off goes on behind what is there, and
one whose lease is lost writes nothing more. Documents without an id get one that is made of the
job's and their line's number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import msgspec

from headwater import failpoints
from headwater.errors import (
    FileMissing,
    HeadwaterError,
    InvalidJob,
    JobFailed,
    LibraryNotFound,
    SourceChanged,
)
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Library, Position, Written
from headwater.service.drafts import Prepared, Refusal
from headwater.service.inbox import Identity, Inbox, identity_of
from headwater.service.ingest import Counts, Ingest, error_json
from headwater.service.intake import Group, Intake
from headwater.service.job_types.files import Ledger, told
from headwater.service.job_types.params import kept, read
from headwater.service.libraries import Libraries
from headwater.service.lines import Line
from headwater.service.sources import Batch, Columns, Format, Mark, Source, format_of, open_source
from headwater.settings import TransferSettings
from headwater.store.base import PutDocuments
from headwater.store.batch_commands import BeginBatch, EndBatch, job_owner

SENT = "source"
"""The name of a file that was sent with the job, before its endings."""
ERRORS = "errors.ndjson"

_INLINE_AT_ONCE = 256
_encode = msgspec.json.Encoder().encode


class ImportParams(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of `documents`, `path` and `file`; the last is set by the route that takes files.

    With more than `max_errors` lines that failed the job fails.
    """

    documents: list[dict[str, Any]] | None = None
    path: str | None = None
    file: str | None = None
    format: Format | None = None
    columns: Columns = Columns()
    delimiter: str | None = None
    encoding: str = "utf-8"
    batch_id: str | None = None
    max_errors: int | None = None


class State(msgspec.Struct, omit_defaults=True):
    """Where an import is: lines up to `through` are in, reading goes on at `mark`."""

    mark: Mark = Mark()
    through: int = 0
    counts: dict[str, int] = {}
    position: Position = 0
    error_bytes: int = 0
    source: Identity | None = None
    done: bool = False


class BatchImport:
    """Loop only."""

    type = "batch_import"
    heavy = False
    needs_library = True

    def __init__(
        self, libraries: Libraries, ingest: Ingest, inbox: Inbox, settings: TransferSettings
    ) -> None:
        self.libraries = libraries
        self.ingest = ingest
        self.inbox = inbox
        self.settings = settings

    async def check(self, params: Params, library: Library | None) -> Params:
        given = read(params, ImportParams)
        sources = [name for name in ("documents", "path", "file") if getattr(given, name)]
        if len(sources) != 1:
            raise InvalidJob(
                "give `documents`, or the `path` of a file on the server, or send a file to "
                "POST /v1/jobs/batch-import; one of them",
                path="params",
            )
        limit = self.ingest.limits.batch_documents
        if given.documents is not None and len(given.documents) > limit:
            raise InvalidJob(
                f"{len(given.documents)} documents in the request, the limit is {limit}; send them "
                "as a file to POST /v1/jobs/batch-import",
                path="params.documents",
            )
        if given.path is not None:
            self.inbox.parts(given.path)
        name = given.path or given.file
        if name is not None and given.format is None:
            given.format = format_of(name, path="params.format")
        if given.delimiter is not None and (
            len(given.delimiter) != 1 or given.delimiter in '"\r\n'
        ):
            raise InvalidJob("`delimiter` is one character", path="params.delimiter")
        try:
            "".encode(given.encoding)
        except (LookupError, ValueError):
            raise InvalidJob(
                f"{given.encoding[:40]!r} is no known encoding", path="params.encoding"
            ) from None
        if given.batch_id is not None and not 1 <= len(given.batch_id) <= 128:
            raise InvalidJob("`batch_id` has 1 to 128 characters", path="params.batch_id")
        if given.max_errors is not None and given.max_errors < 0:
            raise InvalidJob("`max_errors` is 0 or more", path="params.max_errors")
        if library is not None:
            self.ingest.documents.preparer(library)
        return kept(given)

    async def run(self, context: JobContext) -> Result:
        try:
            library = await self.libraries.fresh(context.job.library_id or "")
            result = await _Import(self, context, library).run()
        except LibraryNotFound:
            await self._drop_sent(context)
            raise
        await self._drop_sent(context)
        return result

    async def _drop_sent(self, context: JobContext) -> None:
        """Remove the file that was sent: no attempt will read it again."""
        if (name := read(context.params, ImportParams).file) is not None:
            await self.ingest.pool.call(_drop, _sent(context, name))


class _Import:
    """One attempt."""

    def __init__(self, type: BatchImport, context: JobContext, library: Library) -> None:
        self._type = type
        self._context = context
        self._library = library
        self._params = read(context.params, ImportParams)
        self._batch_id = self._params.batch_id or context.job.id
        self._state = msgspec.convert(context.saved, State)
        self._errors = Ledger(context.folder / ERRORS, self._state.error_bytes)
        self._marks: deque[Mark] = deque()

    async def run(self) -> Result:
        if not self._state.done:
            with ExitStack() as opened:
                source = await self._call(self._open, opened)
                await self._begin()
                await self._take(source)
            await self._end()
        log = self._type.ingest.log
        return {
            "batch_id": self._batch_id,
            **Counts(**self._state.counts).as_dict(),
            "cursor": str(log.cursor(self._state.position or log.head)),
        }

    # ── The file ────────────────────────────────────────────────────────────────────────────────

    def _open(self, opened: ExitStack) -> Source:
        """In a thread. Raises `FileMissing`, `UnreadableFile`, `SourceChanged`."""
        params = self._params
        if params.documents is not None:
            return _Inline(params.documents)
        if params.path is not None:
            name = params.path
            file = opened.enter_context(self._type.inbox.open(name))
        else:
            assert params.file is not None
            name = params.file
            try:
                with told():
                    file = opened.enter_context(_sent(self._context, name).open("rb"))
            except JobFailed as error:
                raise FileMissing("no file was sent with this job; send it anew") from error
        identity = identity_of(file)
        if self._state.source not in (None, identity):
            raise SourceChanged(
                f"{name!r} was changed while it was imported; import it anew as another job"
            )
        self._state.source = identity
        return opened.enter_context(
            open_source(
                file,
                name,
                params.format or "ndjson",
                line_bytes=self._type.ingest.limits.line_bytes,
                columns=params.columns,
                delimiter=params.delimiter,
                encoding=params.encoding,
            )
        )

    async def _lines(self, source: Source) -> AsyncIterator[list[Line]]:
        """What is not in yet, and the marks of it."""
        through = self._state.through
        batches: Iterator[Batch] = source.batches(self._state.mark)
        while (batch := await self._call(next, batches, None)) is not None:
            self._marks.append(batch.mark)
            yield [line for line in batch.lines if line.number > through]

    # ── Taking it in ────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> None:
        """Once for all attempts; again for a job that somebody retries after it has failed."""
        owner = job_owner(self._context.job.id)
        await self._context.write(
            BeginBatch(self._library.number, self._batch_id, owner, once=True),
            state=self._saved(self._state),
        )

    async def _take(self, source: Source) -> None:
        ingest = self._type.ingest
        total = await self._call(source.count)
        self._context.progress(self._state.through, total, "importing")
        namespace = UUID(self._context.job.id)
        intake = Intake(
            ingest.documents,
            self._library,
            ingest.settings,
            ingest.pool,
            self._write,
            line_bytes=ingest.limits.line_bytes,
            batch_id=self._batch_id,
            refuse=False,
            name=lambda line: str(uuid5(namespace, str(line))),
        )
        try:
            await intake.run(self._lines(source))
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _write(
        self, group: Group, prepared: list[Prepared | Refusal], command: PutDocuments | None
    ) -> None:
        await self._keep_errors(group, prepared)
        before = self._reached(group, prepared)

        def after(outcomes: Sequence[Written | HeadwaterError]) -> State:
            return _counted(before, outcomes)

        context = self._context
        context.progress(before.through)
        failpoints.reach("import.before_group")
        if command is None:
            self._state = before
            await context.save(self._saved(before))
            return

        async def write(command: PutDocuments) -> list[Written | HeadwaterError]:
            outcomes: list[Written | HeadwaterError] = await context.write(
                command, state=lambda outcomes: self._saved(after(outcomes))
            )
            self._state = after(outcomes)
            return outcomes

        await self._type.ingest.documents.commit(command, write)
        failpoints.reach("import.after_group")

    def _reached(self, group: Group, prepared: list[Prepared | Refusal]) -> State:
        """The state once this group is in, but for what becomes of its documents."""
        through = group[-1].number
        mark = self._state.mark
        while self._marks and self._marks[0].line <= through:
            mark = self._marks.popleft()
        counts = Counts(**self._state.counts)
        counts.received += len(group)
        counts.failed += sum(isinstance(item, Refusal) for item in prepared)
        most = self._params.max_errors
        if most is not None and counts.failed > most:
            raise JobFailed(
                f"{counts.failed} lines failed up to line {through}, more than `max_errors` "
                f"({most}); GET /v1/jobs/{self._context.job.id}/errors has them",
                line=through,
            )
        return msgspec.structs.replace(
            self._state,
            through=through,
            mark=mark,
            counts=_dict(counts),
            error_bytes=self._errors.size_bytes,
        )

    async def _keep_errors(self, group: Group, prepared: list[Prepared | Refusal]) -> None:
        room = self._type.settings.error_lines - self._state.counts.get("failed", 0)
        lines = [
            _encode({"line": line.number, "id": item.id, "error": error_json(item.error)})
            for line, item in zip(group, prepared, strict=True)
            if isinstance(item, Refusal)
        ][: max(0, room)]
        if lines:
            await self._call(self._errors.append, b"\n".join([*lines, b""]))

    async def _end(self) -> None:
        counts = Counts(**self._state.counts).as_dict()
        state = msgspec.structs.replace(self._state, done=True)
        failpoints.reach("import.before_end")
        await self._context.write(EndBatch(self._batch_id, counts), state=self._saved(state))
        self._state = state

    @staticmethod
    def _saved(state: State) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(state)
        return made

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._type.ingest.pool.call(function, *args)


def _sent(context: JobContext, name: str) -> Path:
    return context.folder / Path(name).name


def _drop(file: Path) -> None:
    with suppress(OSError):  # else it goes with the job
        file.unlink()


class _Inline:
    """Documents that came with the job, by their place."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._documents = documents

    def batches(self, start: Mark) -> Iterator[Batch]:
        for at in range(start.offset, len(self._documents), _INLINE_AT_ONCE):
            part = self._documents[at : at + _INLINE_AT_ONCE]
            lines = [Line(number, _encode(one)) for number, one in enumerate(part, at + 1)]
            yield Batch(lines, Mark(at + len(part), at + len(part)))

    def count(self) -> int | None:
        return len(self._documents)


def _counted(state: State, outcomes: Sequence[Written | HeadwaterError]) -> State:
    """The state with what became of a group's documents."""
    counts, position = Counts(**state.counts), state.position
    for outcome in outcomes:
        if isinstance(outcome, HeadwaterError):
            counts.failed += 1
            continue
        setattr(counts, outcome.status, getattr(counts, outcome.status) + 1)
        counts.pending += outcome.pending is not None
        position = max(position, outcome.position)
    return msgspec.structs.replace(state, counts=_dict(counts), position=position)


def _dict(counts: Counts) -> dict[str, int]:
    return {name: value for name, value in vars(counts).items() if value}


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
