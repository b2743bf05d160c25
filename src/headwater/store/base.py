"""The store contract: documents and the log of their changes, in one transaction.

`Store` is what the loop holds; `Reader` is one consistent read transaction, used inside a reading
thread; the commands are the only ways to write. A second implementation needs nothing but this
file and must pass `tests/store/contract.py`. No caller may rely on anything that is not said here.

What else a store keeps has a file of its own, with its commands and reads: `library_commands.py`,
`batch_commands.py`, `session_commands.py`, `alert_commands.py`, `job_commands.py`,
`regeneration_commands.py`.

Promises:
- A command's result is given only after its transaction is durable (as the durability setting
  says), and after `on_commit` has been called on the loop with the transaction's `Committed`.
- `on_commit` is called in commit order, each transaction once. Transactions of *other* processes
  are only hinted at, by `on_foreign(head)`, soon and at least once after the last of them.
- Positions rise in commit order: when a reader sees position p, no change with a lower position
  appears later.
- A command that fails changes nothing, also when it shares a transaction with others.
- The position and chunk rows of a removed thing are never used again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import anyio.abc
import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.model import (
    Change,
    Chunk,
    Committed,
    Described,
    Document,
    Draft,
    Passage,
    Position,
    Rows,
    Span,
    Vectors,
)
from headwater.store.alert_commands import AlertCommand, AlertReader
from headwater.store.batch_commands import BatchCommand, BatchReader
from headwater.store.job_commands import JobCommand, JobReader
from headwater.store.library_commands import LibraryCommand, LibraryReader
from headwater.store.regeneration_commands import RegenerationCommand
from headwater.store.session_commands import SessionCommand, SessionReader

T = TypeVar("T")

UNSET = msgspec.UNSET
Unset: TypeAlias = msgspec.UnsetType


# ── Commands ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Missing:
    """Chunks that have no vector yet, and why.

    `chunks` is bool, (chunks of the command,): True where the row of `vectors` means nothing.
    `attempts`, `due_us` and the reason are those of `model.Pending`.
    """

    chunks: NDArray[np.bool_]
    attempts: int
    due_us: int
    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class PutDocuments:
    """→ `list[Written | HeadwaterError]`, one per draft, in order. Upserts.

    Changes `document.added` / `document.updated`; none for a draft equal to what is stored
    (`unchanged`). A draft with the stored `body_hash` keeps its chunks and their vectors. Several
    drafts may have one id: each sees the effect of those before it. `vectors` has a row per
    chunk, all drafts' chunks in order. Raises `LibraryNotFound` as a whole.

    A document with chunks that are `missing` their vector is pending until `EmbedDocuments`, and
    its changes say `"status":"pending_embedding"`. One that is put again with its body unchanged,
    and now with vectors, stays pending and is due at once.
    """

    number: int
    drafts: Sequence[Draft]
    vectors: Vectors
    batch_id: str | None = None
    missing: Missing | None = None
    generation: int | None = None
    """That of the vectors; `LibraryRegenerated` when the library is at another by now."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vectors of a document whose chunks are still `chunks`: float32, (chunks, dimension)."""

    id: str
    chunks: Span
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class EmbedDocuments:
    """→ `list[Position | None]`, one per item: None where the document is not pending any more,
    has other chunks by now, or is gone.

    Change `document.embedded`: the chunks move to new rows, as views take rising rows only. The
    version stays. Several items must have different ids. Raises `LibraryNotFound`.
    """

    number: int
    items: Sequence[Embedding]
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class DeferEmbedding:
    """→ `None`. One more attempt has failed for the documents that are still pending.

    `documents` are their rows. No change row. Raises `LibraryNotFound`.
    """

    number: int
    documents: Sequence[int]
    due_us: int
    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class RedriveEmbedding:
    """→ `int`: how many documents are pending; all are due at once.

    No change row. Raises `LibraryNotFound`.
    """

    number: int


@dataclass(frozen=True, slots=True)
class PatchDocument:
    """→ `Written`. Change `document.updated`, or none when nothing differs.

    `metadata` is a JSON merge patch (RFC 7396). Raises `LibraryNotFound`, `DocumentNotFound`,
    `VersionMismatch`.
    """

    number: int
    id: str
    title: str | Unset | None = UNSET
    metadata: dict[str, Any] | Unset = UNSET
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteDocument:
    """→ `Position`. Change `document.deleted` with the metadata the document had.

    Raises `LibraryNotFound`, `DocumentNotFound`, `VersionMismatch`.
    """

    number: int
    id: str
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteDocuments:
    """→ `list[Position | None]`, one per id, in order: None where nothing was deleted.

    A change `document.deleted` for each, as of `DeleteDocument`. With `positions`, one per id, only
    documents whose last change is still that one; and those that were changed since and `still`
    are to go, by their row and metadata. That is called in the writing thread, and must be quick.
    Raises `LibraryNotFound` as a whole.
    """

    number: int
    ids: Sequence[str]
    positions: Sequence[Position] | None = None
    still: Callable[[int, bytes], bool] | None = None


@dataclass(frozen=True, slots=True)
class Announce:
    """→ `Position`. One change that concerns no row: `index.rebuilt`, `index.optimized`.

    Raises `LibraryNotFound`: nothing is told of a library after its end.
    """

    type: str
    number: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrimLog:
    """→ `Position`: the log's new trim point. Removes at most `limit` of the oldest changes.

    Removes those older than `before_us`, and the oldest beyond `keep` in number. Never the last
    one, nor what the alerts that there are have not been matched with.
    """

    before_us: int
    keep: int
    limit: int


@dataclass(frozen=True, slots=True)
class Together:
    """→ `list[Any]`: the commands' results, in order. One transaction: all of them, or none.

    `then` makes one more of the results of the others, in the writing thread. Raises what the
    first of them raises that fails.
    """

    commands: Sequence[Command]
    then: Callable[[list[Any]], Command] | None = None


Command: TypeAlias = (
    PutDocuments
    | EmbedDocuments
    | DeferEmbedding
    | RedriveEmbedding
    | PatchDocument
    | DeleteDocument
    | DeleteDocuments
    | Announce
    | TrimLog
    | Together
    | LibraryCommand
    | BatchCommand
    | SessionCommand
    | AlertCommand
    | JobCommand
    | RegenerationCommand
)


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LogPage:
    """Changes in (`after`, `through`] that matched, in order. Nothing else matched in there.

    `through` may lie beyond the last change, and below the head when the page is full.
    """

    changes: list[Change]
    through: Position


class Reader(AlertReader, BatchReader, JobReader, LibraryReader, SessionReader):
    """One consistent read transaction. Synchronous: only for use inside a reading thread.

    Deleted libraries and what they held are invisible, except in the log.
    """

    @abstractmethod
    def head(self) -> Position:
        """The position of the newest change; 0 in a new log."""

    @abstractmethod
    def trimmed(self) -> Position:
        """The trim point: changes at or below it are gone. 0 when nothing was ever trimmed."""

    @abstractmethod
    def log(
        self,
        after: Position,
        limit: int,
        *,
        library_ids: Collection[str] | None = None,
        types: Collection[str] | None = None,
    ) -> LogPage:
        """Up to `limit` matching changes after `after`, fewer of large ones; None matches all.

        Looks at a bounded stretch of the log, so a page may be empty and still advance `through`.
        Raises `CursorExpired` when `after` is below the trim point.
        """

    @abstractmethod
    def position_at(self, at_us: int) -> Position:
        """The newest position committed before that time; the trim point when none is left."""

    @abstractmethod
    def document(self, number: int, id: str) -> Document | None: ...

    @abstractmethod
    def documents_by_id(self, number: int, ids: Collection[str]) -> dict[str, Document]: ...

    @abstractmethod
    def documents(
        self,
        number: int,
        *,
        after_row: int,
        through_row: int | None = None,
        changed_after: Position | None = None,
        limit: int,
    ) -> list[Document]:
        """By rising `row`, those with `after_row` < row ≤ `through_row`.

        With `changed_after`, only documents whose last change is newer than that position.
        """

    @abstractmethod
    def pending_documents(self, number: int, *, after_row: int, limit: int) -> list[Document]:
        """The pending ones, by rising `row`."""

    @abstractmethod
    def due_documents(self, number: int, *, limit: int) -> list[Document]:
        """The pending ones that are due first, soonest first, whether due yet or not."""

    @abstractmethod
    def chunk_counts(self, number: int, ids: Collection[str]) -> dict[str, int]:
        """How many chunks each of `ids` that exists has."""

    @abstractmethod
    def chunks(self, documents: Sequence[Document], *, vectors: bool = False) -> list[list[Chunk]]:
        """Each document's chunks, in order."""

    @abstractmethod
    def described(self, number: int, *, after_row: int, limit: int) -> list[Described]:
        """Documents by rising `row`, those with `row` > `after_row`, without their text."""

    @abstractmethod
    def last_row(self, number: int) -> int:
        """The highest row of a library's documents; 0 when it has none."""

    @abstractmethod
    def chunk_metadata(self, spans: Sequence[Span]) -> dict[int, bytes]:
        """The metadata of those chunk rows in `spans` that exist and have their own, by row."""

    @abstractmethod
    def chunk_owners(self, rows: Sequence[int]) -> dict[int, tuple[int, bytes | None]]:
        """Of those chunk rows that exist: their document's row, and what metadata they have of
        their own."""

    @abstractmethod
    def passages(
        self, rows: Sequence[int], *, texts: bool = True, vectors: bool = False
    ) -> dict[int, Passage]:
        """The passages of those chunk rows that still exist."""

    @abstractmethod
    def texts_after(
        self, number: int, after_row: int, limit: int
    ) -> list[tuple[int, str | None, str | None]]:
        """Chunk rows > `after_row` of a library, rising: row, the document's title, text."""

    @abstractmethod
    def vectors_after(self, number: int, after_row: int, limit: int) -> tuple[Rows, Vectors]:
        """Chunk rows > `after_row` of a library that have a vector, rising, and their vectors."""

    @abstractmethod
    def next_vectors_after(
        self, number: int, generation: int, after_row: int, limit: int
    ) -> tuple[Rows, Vectors]:
        """As `vectors_after`, of a generation in the making, as far as it has vectors yet."""

    @abstractmethod
    def vectors_of(self, spans: Sequence[tuple[int, int]]) -> tuple[Rows, Vectors]:
        """Vectors of the chunk rows in the `(first, count)` spans that still exist and have one.

        All spans belong to libraries of one dimension. Rising rows when the spans rise.
        """

    @abstractmethod
    def check(self) -> list[str]:
        """What is inconsistent within the store, a sentence each: counters, spans, the log."""


class Snapshot(ABC):
    """A `Reader` that stays at one point of history across several calls."""

    position: Position

    @abstractmethod
    async def read(self, query: Callable[[Reader], T]) -> T: ...


class Store(ABC):
    """What the loop holds. Usable once `run` has said that it is started."""

    log_id: str
    """Six to sixteen characters a–z0–9, made when the database is created."""

    @abstractmethod
    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Open, migrate, serve until cancelled; then finish accepted commands and close."""

    @abstractmethod
    async def write(self, command: Command) -> Any:
        """Do it in a transaction, maybe together with others' commands; see each command.

        Cancelling the wait does not undo the command.
        """

    @abstractmethod
    async def read(self, query: Callable[[Reader], T]) -> T:
        """Run `query` in a reading thread, in a transaction of its own."""

    @abstractmethod
    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A point in history held open. Keep it short: it holds back the clean-up of old pages."""

    @abstractmethod
    def open_reader(self) -> Callable[[Callable[[Reader], T]], T]:
        """For a lane's own thread: a function that runs a query on a connection kept for it.

        Synchronous; each call is a transaction of its own.
        """

    @abstractmethod
    async def restore_identity(self) -> str:
        """Give the log a new id, as a restored copy must have, and return it."""


OnCommit: TypeAlias = Callable[[Committed], None]
OnForeign: TypeAlias = Callable[[Position], None]
