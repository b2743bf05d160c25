"""The store contract, continued: the commands and reads of libraries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from msgspec import UNSET, UnsetType

from headwater.model import Library, Metric, Quantization


@dataclass(frozen=True, slots=True)
class CreateLibrary:
    """→ `Library`. Change `library.created`. Raises `LibraryExists` when the name is taken."""

    id: str
    name: str
    description: str | None
    embedder: str
    embedder_identity: str
    dimension: int
    metric: Metric
    chunk_size: int
    chunk_overlap: int
    metadata: dict[str, Any] = field(default_factory=dict)
    language: str = "en"
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True)
class UpdateLibrary:
    """→ `Library`. Change `library.updated`, none when nothing differs.

    `metadata` replaces what was there. Raises `LibraryNotFound`, `LibraryExists`.
    """

    number: int
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    chunk_size: int | UnsetType = UNSET
    chunk_overlap: int | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class DeleteLibrary:
    """→ `Position`. Change `library.deleted` with the counts and metadata it had.

    The library and all in it are gone for every reader from this commit on and its name is free;
    its rows are taken away later by `SweepLibraries`. Raises `LibraryNotFound`.
    """

    number: int


@dataclass(frozen=True, slots=True)
class SweepLibraries:
    """→ `bool`: whether rows of deleted libraries are left. Removes at most `limit` documents.

    No change row: nobody could see these rows any more.
    """

    limit: int


LibraryCommand: TypeAlias = CreateLibrary | UpdateLibrary | DeleteLibrary | SweepLibraries


class LibraryReader(ABC):
    """The part of `Reader` that is about libraries."""

    @abstractmethod
    def library(self, ref: str) -> Library | None:
        """By id or by name; an id wins over an equal name."""

    @abstractmethod
    def libraries(self, *, after: int, limit: int) -> list[Library]:
        """By rising `number`, those with `number` > `after`."""

    @abstractmethod
    def libraries_pending(self) -> list[Library]:
        """Those with pending documents, by rising `number`."""
