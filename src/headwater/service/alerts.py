"""Alerts: queries that the server keeps, whose matches are changes in the log.

Made, read, changed and deleted here; `alert_matching.py` matches them. The vector is stored with
the alert: its text is never embedded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import AlertNotFound, InvalidQuery
from headwater.filters import parse
from headwater.model import Alert, Library, Position, Vectors
from headwater.service.drafts import encode_metadata
from headwater.service.live import LiveQuery, LiveSearches, check_threshold
from headwater.settings import LiveSettings
from headwater.store.alert_commands import CreateAlert, DeleteAlert, UpdateAlert

LONGEST_NAME = 200

_canonical = msgspec.json.Encoder(order="deterministic").encode


class NewAlert(msgspec.Struct, forbid_unknown_fields=True):
    """What matches: a text or a vector, from which score on, under which filter."""

    score_threshold: float
    name: str | None = None
    query: str | None = None
    vector: list[float] | None = None
    filter: dict[str, Any] | None = None
    metadata: dict[str, Any] = {}


class AlertPatch(msgspec.Struct, forbid_unknown_fields=True):
    """What is given replaces what was; a `query` or `vector` replaces both."""

    score_threshold: float | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    query: str | UnsetType = UNSET
    vector: list[float] | UnsetType = UNSET
    filter: dict[str, Any] | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class _Kept:
    vector: Vectors
    filter: bytes | None


class Alerts:
    """Loop only."""

    def __init__(self, log: Log, live: LiveSearches, clock: Clock, settings: LiveSettings) -> None:
        self._log = log
        self._live = live
        self._clock = clock
        self._settings = settings

    async def create(self, library: Library, given: NewAlert) -> Alert:
        """Raises `InvalidQuery`, `InvalidFilter`, `TooManyAlerts`, and what embedders raise."""
        kept = await self._kept(
            library, given.query, given.vector, given.filter, given.score_threshold
        )
        alert: Alert = await self._log.store.write(
            CreateAlert(
                library.number,
                self._clock.uuid7(),
                _checked_name(given.name),
                given.query,
                kept.vector,
                given.score_threshold,
                kept.filter,
                encode_metadata(given.metadata, InvalidQuery),
                self._settings.max_alerts,
            )
        )
        return alert

    async def get(self, library: Library, id: str) -> Alert:
        """Raises `AlertNotFound`."""
        alert = await self._log.store.read(lambda reader: reader.alert(library.number, id))
        if alert is None:
            raise AlertNotFound(
                f"library {library.name!r} has no alert {id[:80]!r}; list its alerts", id=id
            )
        return alert

    async def page(self, library: Library, after: int, limit: int) -> list[Alert]:
        """In the order they were made, those after the alert of that row."""
        return await self._log.store.read(
            lambda reader: reader.alerts(after=after, limit=limit, library=library.number)
        )

    async def patch(self, library: Library, id: str, patch: AlertPatch) -> Alert:
        """Raises `AlertNotFound`, and as `create`."""
        old = await self.get(library, id)
        query: str | UnsetType | None = UNSET
        vector: Vectors | UnsetType = UNSET
        filter: bytes | UnsetType | None = UNSET
        if patch.query is not UNSET or patch.vector is not UNSET:
            query = None if patch.query is UNSET else patch.query
            own = None if patch.vector is UNSET else patch.vector
            vector = (await self._kept(library, query, own, None, old.score_threshold)).vector
        if patch.filter is not UNSET:
            filter = None if patch.filter is None else _filter(patch.filter)
        threshold = patch.score_threshold
        if threshold is not UNSET:
            check_threshold(threshold)
        alert: Alert = await self._log.store.write(
            UpdateAlert(
                library.number,
                id,
                patch.name if patch.name is UNSET else _checked_name(patch.name),
                query,
                vector,
                threshold,
                filter,
                UNSET if patch.metadata is UNSET else encode_metadata(patch.metadata, InvalidQuery),
            )
        )
        return alert

    async def delete(self, library: Library, id: str) -> Position:
        """Raises `AlertNotFound`."""
        position: Position = await self._log.store.write(DeleteAlert(library.number, id))
        return position

    async def _kept(
        self,
        library: Library,
        query: str | None,
        vector: list[float] | None,
        filter: dict[str, Any] | None,
        threshold: float,
    ) -> _Kept:
        """Check it as a live query, and make its vector."""
        asked = LiveQuery(query=query, vector=vector, score_threshold=threshold)
        prepared = await self._live.prepare(library, asked)
        return _Kept(prepared.wanted.query, None if filter is None else _filter(filter))


def _filter(given: dict[str, Any]) -> bytes:
    parse(given)
    return _canonical(given)


def _checked_name(name: str | None) -> str | None:
    if name is not None and not 1 <= len(name) <= LONGEST_NAME:
        raise InvalidQuery(
            f"an alert's name has 1 to {LONGEST_NAME} characters; this one has {len(name)}",
            parameter="name",
        )
    return name
