"""Libraries: made, found, changed, deleted.

Every request begins here with `get`, so what it knows is kept in memory and forgotten as soon as
any process changes a library: at once what this one changes, with the bell's next look what
another does. It must never answer with a library that it has said is not there.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.embed import Embedders
from headwater.errors import InvalidLibrary, LibraryNotFound, LibraryRegenerated
from headwater.model import Committed, Library, Metric, Position, Quantization
from headwater.search.language import DEFAULT_LANGUAGE, LANGUAGES
from headwater.service.drafts import encode_metadata
from headwater.settings import IngestSettings, LimitSettings
from headwater.store.base import UNSET, Reader, Unset
from headwater.store.library_commands import CreateLibrary, DeleteLibrary, UpdateLibrary

_NAME = re.compile(
    r"[^\s/\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,126}[^\s/\x00-\x1f\x7f]|[^\s/\x00-\x1f\x7f]"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KEPT = 1_000


class Libraries:
    """The libraries of the store, by id or name. Loop only."""

    def __init__(
        self,
        log: Log,
        embedders: Embedders,
        clock: Clock,
        ingest: IngestSettings,
        limits: LimitSettings,
    ) -> None:
        self._log = log
        self._embedders = embedders
        self._clock = clock
        self._ingest = ingest
        self._limits = limits
        self._known: OrderedDict[str, Library] = OrderedDict()
        self._generation = 0
        log.on_news(self._forget)

    async def create(
        self,
        name: str,
        *,
        description: str | None = None,
        embedder: str = "static",
        dimension: int | None = None,
        metric: Metric = "cosine",
        chunk_size: int | None = None,
        chunk_overlap: int | None = None,
        metadata: dict[str, Any] | None = None,
        language: str = DEFAULT_LANGUAGE,
        quantization: Quantization = "none",
    ) -> Library:
        """Raises `InvalidLibrary`, `LibraryExists`, `EmbedderFailed`, `EmbedderUnavailable`."""
        _check_name(name)
        if dimension is not None and dimension > self._limits.dimension:
            raise InvalidLibrary(
                f"dimension {dimension} is over the limit of {self._limits.dimension}"
            )
        identity, dimension = await self._embedders.describe(embedder, dimension)
        if dimension > self._limits.dimension:
            raise InvalidLibrary(
                f"the embedder {embedder!r} makes vectors of {dimension} dimensions, over the "
                f"limit of {self._limits.dimension}; ask for fewer with `dimension`"
            )
        size = self._ingest.chunk_size if chunk_size is None else chunk_size
        overlap = (
            min(self._ingest.chunk_overlap, size // 4) if chunk_overlap is None else chunk_overlap
        )
        _check_chunking(size, overlap)
        encode_metadata(metadata or {}, InvalidLibrary)
        if language not in LANGUAGES:
            raise InvalidLibrary(
                f"language {language[:40]!r} is not known; one of {', '.join(LANGUAGES)}"
            )
        library: Library = await self._log.store.write(
            CreateLibrary(
                id=self._clock.uuid7(),
                name=_check_name(name),
                description=_check_description(description),
                embedder=embedder,
                embedder_identity=identity,
                dimension=dimension,
                metric=metric,
                chunk_size=size,
                chunk_overlap=overlap,
                metadata=metadata or {},
                language=language,
                quantization=quantization,
            )
        )
        return library

    async def get(self, ref: str) -> Library:
        """The library with that id or name; its counts may be those of a moment ago.

        Raises `LibraryNotFound`.
        """
        library = self._known.get(ref)
        if library is None:
            generation = self._generation
            library = await self.fresh(ref)
            if generation == self._generation:
                self._known[ref] = library
                if len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return library

    async def fresh(self, ref: str) -> Library:
        """The library as it is in the store now, counts included. Raises `LibraryNotFound`."""
        library = await self._log.store.read(lambda reader: reader.library(ref))
        if library is None:
            if self._known:  # another process deleted it, and its bell has yet to reach us
                self._forget(None)
            raise LibraryNotFound(
                f"there is no library {ref!r}; create it with POST /v1/libraries", library=ref
            )
        return library

    async def page(self, after: int, limit: int) -> list[Library]:
        return await self._log.store.read(lambda reader: reader.libraries(after=after, limit=limit))

    async def update(
        self,
        ref: str,
        *,
        name: str | Unset = UNSET,
        description: str | Unset | None = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
        chunk_size: int | Unset = UNSET,
        chunk_overlap: int | Unset = UNSET,
    ) -> Library:
        """Raises `LibraryNotFound`, `LibraryExists`, `InvalidLibrary`."""
        library = await self.get(ref)
        _check_chunking(
            library.chunk_size if isinstance(chunk_size, Unset) else chunk_size,
            library.chunk_overlap if isinstance(chunk_overlap, Unset) else chunk_overlap,
        )
        if not isinstance(metadata, Unset):
            encode_metadata(metadata, InvalidLibrary)
        updated: Library = await self._log.store.write(
            UpdateLibrary(
                number=library.number,
                name=name if isinstance(name, Unset) else _check_name(name),
                description=(
                    description
                    if isinstance(description, Unset)
                    else _check_description(description)
                ),
                metadata=metadata,
                chunk_size=chunk_size,
                chunk_overlap=chunk_overlap,
            )
        )
        return updated

    async def delete(self, ref: str) -> tuple[Library, Position]:
        """Gone for every reader when this returns; its rows are swept later."""
        library = await self.get(ref)
        position: Position = await self._log.store.write(DeleteLibrary(library.number))
        return library, position

    def _forget(self, committed: Committed | None) -> None:
        if committed is None or any(
            change.type.startswith("library.") for change in committed.changes
        ):
            self._known.clear()
            self._generation += 1


def is_name(text: str) -> bool:
    """Whether a library, or a session, may have that name."""
    return _NAME.fullmatch(text) is not None and _UUID.fullmatch(text) is None


def _check_name(name: str) -> str:
    if not is_name(name):
        raise InvalidLibrary(
            "a library's name has 1 to 128 characters without `/` and control characters, no "
            f"space at either end, and does not look like an id; this one is {name[:140]!r}"
        )
    return name


def _check_description(description: str | None) -> str | None:
    if description is not None and "\0" in description:
        raise InvalidLibrary("the description holds U+0000, which cannot be stored; remove it")
    return description


def _check_chunking(size: int, overlap: int) -> None:
    if not 32 <= size <= 1_000_000 or not 0 <= overlap < size:
        raise InvalidLibrary(
            f"chunk_size {size} and chunk_overlap {overlap} do not fit; the size is 32 to "
            "1000000 characters and the overlap is below it"
        )


def still(reader: Reader, library: Library) -> Library:
    """The library as this reader has it. Raises `LibraryNotFound` when it was deleted."""
    found = reader.library(library.id)
    if found is None:
        raise LibraryNotFound(f"library {library.name!r} was deleted", library=library.id)
    return found


def same_generation(reader: Reader, library: Library) -> None:
    """Raise `LibraryRegenerated` when this reader's vectors are of another generation."""
    now = reader.library(library.id)
    if now is not None and now.generation != library.generation:
        raise LibraryRegenerated("the vectors were made anew meanwhile; search again")
