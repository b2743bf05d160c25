"""A reader of live queries as clients are told to write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ShownHits:
    """The hits a reader shows, best first, made from events alone.

    A group is the events of one cursor, to the first without `more`: what it names goes, then what
    it brings is put in by rising rank.
    """

    grouped: bool = False
    hits: list[dict[str, Any]] = field(default_factory=list)
    cursor: str | None = None
    reasons: list[tuple[str, str]] = field(default_factory=list)
    unknown: int = 0
    """Leaves of hits that were not shown, and updates of such."""
    _group: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def hear(self, event: str, data: dict[str, Any]) -> None:
        if event == "snapshot":
            assert not self._group
            self.hits, self.cursor = list(data["results"]), data["cursor"]
            assert [hit["rank"] for hit in self.hits] == list(range(1, len(self.hits) + 1))
        elif event in ("ready", "progress"):
            assert not self._group
            self.cursor = data["cursor"]
        elif event == "reset":
            assert not self._group
        else:
            self._group.append((event, data))
            if not data.get("more"):
                self._apply()

    def _apply(self) -> None:
        group, self._group = self._group, []
        (cursor,) = {data["cursor"] for _, data in group}
        events = [event for event, _ in group]
        assert events == sorted(events, key=lambda event: event != "leave"), "leaves come first"
        ranks = [data["hit"]["rank"] for event, data in group if event != "leave"]
        assert ranks == sorted(ranks)
        named = [self._identity(data["hit"]) for _, data in group]
        assert len(named) == len(set(named))
        shown = {self._identity(hit) for hit in self.hits}
        for event, data in group:
            id = self._identity(data["hit"])
            self.unknown += (id in shown) == (event == "enter")
            if event == "leave":
                self.reasons.append((id, data["reason"]))
        self.hits = [hit for hit in self.hits if self._identity(hit) not in named]
        for event, data in group:
            if event != "leave":
                self.hits.insert(data["hit"]["rank"] - 1, data["hit"])
        self.hits = [{**hit, "rank": rank} for rank, hit in enumerate(self.hits, 1)]
        self.cursor = cursor

    def _identity(self, hit: dict[str, Any]) -> str:
        id: str = hit["document_id" if self.grouped else "chunk_id"]
        return id

    def told(self) -> list[tuple[str, float]]:
        """Chunk and score of each hit, in order."""
        return [(hit["chunk_id"], hit["score"]) for hit in self.hits]
