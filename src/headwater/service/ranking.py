"""From what the legs of a search found to one order of chunks.

Plain computing on arrays, no waiting: `legs.py` and `search.py` ask for it between the legs and
the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headwater.model import Rows, Vectors

Scores = NDArray[np.float64]

RRF_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What one way of searching found, best first. `scores` are its own."""

    rows: Rows
    scores: Scores

    def places(self) -> dict[int, tuple[int, float]]:
        """Rank from 1 and score of each row."""
        return {
            row: (rank, score)
            for rank, (row, score) in enumerate(
                zip(self.rows.tolist(), self.scores.tolist(), strict=True), 1
            )
        }


@dataclass(frozen=True, slots=True)
class Ranked:
    """Chunk rows, best first; equal scores by rising row. `legs` when there were several."""

    rows: Rows
    scores: Scores
    legs: Mapping[str, Mapping[int, tuple[int, float]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def pick(self, chosen: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Ranked:
        return Ranked(self.rows[chosen], self.scores[chosen], self.legs)


def single(leg: Leg) -> Ranked:
    return Ranked(leg.rows, leg.scores)


def fused(legs: Mapping[str, Leg], weights: Mapping[str, float]) -> Ranked:
    """Reciprocal rank fusion: each leg gives a row weight / (60 + rank)."""
    places = {name: leg.places() for name, leg in legs.items()}
    totals: dict[int, float] = {}
    for name, found in places.items():
        weight = weights[name]
        if weight:
            for row, (rank, _) in found.items():
                totals[row] = totals.get(row, 0.0) + weight / (RRF_K + rank)
    order = sorted(totals, key=lambda row: (-totals[row], row))
    return Ranked(
        np.array(order, np.int64), np.array([totals[row] for row in order], np.float64), places
    )


def after(ranked: Ranked, score: float, row: int) -> Ranked:
    """What comes after that place in the order."""
    later = (ranked.scores < score) | ((ranked.scores == score) & (ranked.rows > row))
    return ranked.pick(later)


def without(ranked: Ranked, rows: Rows) -> Ranked:
    return ranked.pick(~np.isin(ranked.rows, rows)) if len(rows) else ranked


def diverse(ranked: Ranked, vectors: Vectors, relevance: float, k: int) -> Ranked:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), the k first picks.

    `vectors` belong to `ranked`'s rows, float32 (n, dim), unit length or zero. Relevance is the
    score scaled to 0 … 1 over the candidates, likeness the cosine.
    """
    count = len(ranked)
    if not count:
        return ranked
    span = float(ranked.scores.max() - ranked.scores.min())
    relevant = (ranked.scores - ranked.scores.min()) / span if span else np.ones(count)
    nearest = np.zeros(count)
    left = np.ones(count, np.bool_)
    picks: list[int] = []
    for number in range(min(k, count)):
        worth = relevance * relevant - (1 - relevance) * nearest
        worth[~left] = -np.inf
        pick = int(np.argmax(worth))
        picks.append(pick)
        left[pick] = False
        likeness = vectors @ vectors[pick]
        nearest = likeness if not number else np.maximum(nearest, likeness)
    return ranked.pick(np.array(picks, np.int64))
