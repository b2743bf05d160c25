"""`batch_delete`: the documents of a filter, or those named, a piece at a time.

Each piece is one transaction with the place the job has reached, so that what is counted as deleted
was deleted once. A filter takes the documents that were there when the job began; one that an
update has taken out of the filter by its turn stays, which the transaction itself decides.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headwater import failpoints
from headwater.changes.log import Log
from headwater.errors import InvalidDocument, InvalidJob
from headwater.filters import Filter
from headwater.jobs.base import JobContext, Params, Result
from headwater.model import Described, Library, Position
from headwater.service.deletion import pieces
from headwater.service.drafts import check_id
from headwater.service.job_types.params import filter_of, kept, read
from headwater.service.libraries import Libraries, still
from headwater.service.matching import find, meets
from headwater.store.base import DeleteDocuments, Reader

MAX_IDS = 10_000

_FOUND = 2_000
"""Documents of a filter that are found at once, and then deleted in pieces."""
_NAMED = 1_000
_MISSING_SHOWN = 100


class DeleteParams(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of the two; `{}` is every document."""

    filter: dict[str, Any] | None = None
    ids: list[str] | None = None


class State(msgspec.Struct, omit_defaults=True):
    """`reached` is a document's row, or how many of the ids; `last_row` is where a filter ends.

    `missing` counts the ids that there were no documents of, or what was found and was not there,
    or not in the filter, by its turn; `missing_ids` are the first of those ids.
    """

    begun: bool = False
    reached: int = 0
    last_row: int = 0
    deleted: int = 0
    position: Position = 0
    missing: int = 0
    missing_ids: list[str] = []


class BatchDelete:
    """Loop only."""

    type = "batch_delete"
    heavy = False
    needs_library = True

    def __init__(self, log: Log, libraries: Libraries) -> None:
        self.log = log
        self.libraries = libraries

    async def check(self, params: Params, library: Library | None) -> Params:
        given = read(params, DeleteParams)
        if (given.filter is None) == (given.ids is None):
            raise InvalidJob(
                "give exactly one of `filter` and `ids`; `{}` filters nothing out", path="params"
            )
        if given.filter is not None:
            filter_of(given.filter)
        if given.ids is not None:
            if len(given.ids) > MAX_IDS:
                raise InvalidJob(
                    f"{len(given.ids)} ids in one job, the limit is {MAX_IDS}; make several jobs",
                    path="params.ids",
                )
            for place, id in enumerate(given.ids):
                try:
                    check_id(id)
                except InvalidDocument as error:
                    raise InvalidJob(error.detail, path=f"params.ids[{place}]") from error
            given.ids = list(dict.fromkeys(given.ids))
        return kept(given)

    async def run(self, context: JobContext) -> Result:
        library = await self.libraries.fresh(context.job.library_id or "")
        return await _Delete(self, context, library).run()


class _Delete:
    """One attempt."""

    def __init__(self, type: BatchDelete, context: JobContext, library: Library) -> None:
        self._type = type
        self._context = context
        self._library = library
        self._params = read(context.params, DeleteParams)
        self._state = msgspec.convert(context.saved, State)

    async def run(self) -> Result:
        if self._params.ids is not None:
            await self._named(self._params.ids)
        else:
            await self._matching(filter_of(self._params.filter))
        state = self._state
        result: Result = {"deleted": state.deleted}
        if self._params.ids is not None:
            result |= {"not_found": state.missing, "not_found_ids": state.missing_ids}
        else:
            result |= {"spared": state.missing}
        log = self._type.log
        return result | {"cursor": str(log.cursor(state.position or log.head))}

    async def _named(self, ids: list[str]) -> None:
        number, context = self._library.number, self._context
        while (start := self._state.reached) < len(ids):
            some = ids[start : start + _NAMED]
            counts = await context.read(
                lambda reader, some=some: reader.chunk_counts(number, some)  # type: ignore[misc]  # default argument
            )
            for piece in pieces(some, lambda id, counts=counts: counts.get(id, 0)):  # type: ignore[misc]  # default argument
                context.progress(self._state.reached, len(ids), "deleting")
                reached = self._state.reached + len(piece)
                await self._delete(DeleteDocuments(number, piece), reached)
        context.progress(len(ids), len(ids))

    async def _matching(self, filter: Filter) -> None:
        number, context = self._library.number, self._context
        if not self._state.begun:
            last_row = await context.read(
                lambda reader: reader.last_row(still(reader, self._library).number)
            )
            self._state = State(begun=True, last_row=last_row)
            await context.save(msgspec.to_builtins(self._state))
        context.progress(self._state.deleted, None, "deleting")
        last_row = self._state.last_row

        def goes(row: int, metadata: bytes) -> bool:
            """Whether one that was changed since it was found is to go as it is now."""
            return row <= last_row and meets(filter, metadata)

        while (start := self._state.reached) < last_row:

            def look(reader: Reader, start: int = start) -> tuple[list[Described], int | None]:
                still(reader, self._library)  # else none would be found, and the job be done

                def page(after: int, count: int) -> list[Described]:
                    return reader.described(number, after_row=after, limit=count)

                return find(page, filter, start, _FOUND)

            found, next_row = await context.read(look)
            found = [document for document in found if document.row <= last_row]
            for piece in pieces(found, lambda document: document.chunks.count):
                ids = [document.id for document in piece]
                positions = [document.position for document in piece]
                await self._delete(DeleteDocuments(number, ids, positions, goes))
            await self._reach(last_row if next_row is None else next_row)

    async def _delete(self, command: DeleteDocuments, reached: int | None = None) -> None:
        """Delete, and be at `reached` when it is given, in one transaction."""
        before = self._state

        def after(done: list[Position | None]) -> State:
            gone = [position for position in done if position is not None]
            missing = [id for id, gone in zip(command.ids, done, strict=True) if gone is None]
            shown = before.missing_ids
            if reached is not None:
                shown = [*shown, *missing[: _MISSING_SHOWN - len(shown)]]
            return msgspec.structs.replace(
                before,
                reached=before.reached if reached is None else reached,
                deleted=before.deleted + len(gone),
                position=max([before.position, *gone]),
                missing=before.missing + len(missing),
                missing_ids=shown,
            )

        done: list[Position | None] = await self._context.write(
            command, state=lambda done: msgspec.to_builtins(after(done))
        )
        self._state = after(done)
        failpoints.reach("delete.after_piece")
        if reached is None:
            self._context.progress(self._state.deleted)

    async def _reach(self, row: int) -> None:
        """Everything up to that row has been looked at."""
        self._state = msgspec.structs.replace(self._state, reached=row)
        await self._context.save(msgspec.to_builtins(self._state))
