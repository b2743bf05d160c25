"""What is in a library, in a plain dictionary, at every position: what live queries must show."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from search.brute import ranked

from headwater.filters import matches, parse
from headwater.model import Metric, Position, Vectors, chunk_id

DIMENSION = 8


def vector_of(seed: int) -> Vectors:
    """Few different ones, so that many scores are equal; the first is zero."""
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector if seed else np.zeros_like(vector)


@dataclass(frozen=True)
class Piece:
    """`age` rises with every chunk that is new."""

    age: int
    ordinal: int
    seed: int
    own: dict[str, Any]


@dataclass(frozen=True)
class Held:
    id: str
    metadata: dict[str, Any]
    pieces: tuple[Piece, ...]


@dataclass
class History:
    """The documents at each position after which something was different."""

    now: dict[str, Held] = field(default_factory=dict)
    age: int = 0
    states: list[tuple[Position, dict[str, Held]]] = field(default_factory=list)

    def put(
        self,
        id: str,
        chunks: list[tuple[int, dict[str, Any]]],
        metadata: dict[str, Any],
        position: Position,
    ) -> None:
        old = self.now.get(id)
        # As text: to Python 1 and True are equal, to the store they are not.
        same = old is not None and json.dumps(
            [(piece.seed, piece.own) for piece in old.pieces]
        ) == json.dumps(chunks)
        if old is not None and same:
            pieces = old.pieces  # the same body keeps its chunks
        else:
            pieces = tuple(
                Piece(self.age + number, number, seed, own)
                for number, (seed, own) in enumerate(chunks)
            )
            self.age += len(chunks)
        self._set(id, Held(id, metadata, pieces), position)

    def patch(self, id: str, metadata: dict[str, Any], position: Position) -> None:
        self._set(id, Held(id, metadata, self.now[id].pieces), position)

    def delete(self, id: str, position: Position) -> None:
        self._set(id, None, position)

    def _set(self, id: str, held: Held | None, position: Position) -> None:
        self.now = {**self.now}
        if held is None:
            del self.now[id]
        else:
            self.now[id] = held
        self.states.append((position, self.now))

    def at(self, position: Position) -> dict[str, Held]:
        found: dict[str, Held] = {}
        for there, state in self.states:
            if there > position:
                break
            found = state
        return found

    def shows(
        self,
        position: Position,
        metric: Metric,
        query: Vectors,
        *,
        k: int | None,
        floor: float | None,
        filter: dict[str, Any] | None,
        grouped: bool,
    ) -> list[tuple[str, float]]:
        """The exact answer there: chunk and score, best first."""
        made = None if filter is None else parse(filter)
        passing = {
            piece.age: (held.id, piece)
            for held in self.at(position).values()
            for piece in held.pieces
            if made is None or matches(made, {**held.metadata, **piece.own})
        }
        vectors = {age: vector_of(piece.seed) for age, (_, piece) in passing.items()}
        ages, scores = ranked(metric, vectors, query, len(passing))
        shown: list[tuple[str, float]] = []
        seen: set[str] = set()
        for age, score in zip(ages, scores, strict=True):
            id, piece = passing[age]
            if (floor is not None and score < floor) or (grouped and id in seen):
                continue
            seen.add(id)
            shown.append((chunk_id(id, piece.ordinal), score))
        return shown[:k]
