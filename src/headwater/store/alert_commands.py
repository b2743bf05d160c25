"""The store contract, continued: the commands and reads of alerts.

An alert is a query that is kept; what it matches are changes in the log. How far the matching has
come is saved with the matches, in one transaction: each is told once, whoever dies when.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from headwater.model import Alert, Position, Vectors

UNSET = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class CreateAlert:
    """→ `Alert`. Change `alert.created`. It matches what is written after it.

    `vector` float32 (dimension,); `filter` and `metadata` are encoded JSON. Raises
    `LibraryNotFound`, `DimensionMismatch`, and `TooManyAlerts` when the library has `most` already.
    """

    number: int
    id: str
    name: str | None
    query: str | None
    vector: Vectors
    score_threshold: float
    filter: bytes | None
    metadata: bytes
    most: int


@dataclass(frozen=True, slots=True)
class UpdateAlert:
    """→ `Alert`. Change `alert.updated`, none when nothing differs.

    From that change on it matches as it is now. Raises `LibraryNotFound`, `AlertNotFound`,
    `DimensionMismatch`.
    """

    number: int
    id: str
    name: str | msgspec.UnsetType | None = UNSET
    query: str | msgspec.UnsetType | None = UNSET
    vector: Vectors | msgspec.UnsetType = UNSET
    score_threshold: float | msgspec.UnsetType = UNSET
    filter: bytes | msgspec.UnsetType | None = UNSET
    metadata: bytes | msgspec.UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class DeleteAlert:
    """→ `Position`. Change `alert.deleted`; nothing is matched after it.

    Raises `LibraryNotFound`, `AlertNotFound`.
    """

    number: int
    id: str


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """How far the matching is: all matches of changes up to `position` are told.

    Of the next change, those with alerts whose row is `row` at most.
    """

    position: Position
    row: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """A document's change that an alert matches, by its best chunk."""

    position: Position
    alert: int
    document_id: str
    chunk_id: str
    title: str | None
    score: float
    version: int


@dataclass(frozen=True, slots=True)
class TellMatches:
    """→ `int`: how many were told. Changes `alert.matched`, and the place is saved with them.

    `matches` rise by position and alert and lie between the place that is saved and `place`; those
    that do not are told already, and left out, as are those of alerts that are gone.
    """

    place: Place
    matches: Sequence[Match]


AlertCommand: TypeAlias = CreateAlert | UpdateAlert | DeleteAlert | TellMatches


class AlertReader(ABC):
    """The part of `Reader` that is about alerts."""

    @abstractmethod
    def alert(self, number: int, id: str) -> Alert | None: ...

    @abstractmethod
    def alerts(self, *, after: int, limit: int, library: int | None = None) -> list[Alert]:
        """By rising `row`, those with `row` > `after`; of one library when it is given."""

    @abstractmethod
    def alerts_by_id(self, ids: Collection[str]) -> dict[str, Alert]: ...

    @abstractmethod
    def alerts_place(self) -> Place | None:
        """How far the matching of alerts is; None when there was never one."""
