"""Whatever was written, every mode finds what the obvious way finds in a plain dictionary.

Vectors are compared with numpy, filters with `filters.matches`, a hybrid search with its legs'
own answers fused by hand; pages joined are the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from filters.random_filters import filters, metadata
from hypothesis import given, settings
from hypothesis import strategies as st
from search.brute import ranked
from service.whole import put, whole

from headwater.app import Parts
from headwater.clock import SystemClock
from headwater.filters import matches, parse
from headwater.model import Library, Metric, Vectors, chunk_id
from headwater.service import legs as module
from headwater.service.hits import Hit
from headwater.service.query import Query, Weights
from headwater.service.search import Answer

DIMENSION = 256
WORDS = ("moon", "sea", "bread", "salt", "train")
IDS = st.integers(0, 7).map(lambda number: f"d{number}")
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
CHUNKS = st.lists(st.tuples(TEXTS, st.integers(0, 9)), min_size=1, max_size=8)
PUT = st.tuples(st.just("put"), IDS, CHUNKS, metadata)
ASKED = st.tuples(st.just("ask"), st.none() | filters, st.integers(0, 9), TEXTS)
CHURN = st.lists(
    st.one_of(
        PUT,
        st.tuples(st.just("patch"), IDS, metadata),
        st.tuples(st.just("delete"), IDS),
        ASKED,
    ),
    max_size=15,
)


def vector_of(seed: int) -> Vectors:
    """Few different ones, so that many scores are equal; the first is zero."""
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector if seed else np.zeros_like(vector)


@dataclass
class Piece:
    """A chunk as the model has it: `age` rises with every chunk that is new."""

    age: int
    id: str
    text: str
    vector: Vectors


@dataclass
class Model:
    chunks: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    age: int = 0

    def put(self, id: str, chunks: list[tuple[str, int]], own: dict[str, Any]) -> None:
        self.metadata[id] = own
        if self.chunks.get(id) == chunks:
            return  # the same body keeps its chunks
        self.chunks[id] = chunks
        self.pieces[id] = []
        for at, (text, seed) in enumerate(chunks):
            self.age += 1
            self.pieces[id].append(Piece(self.age, chunk_id(id, at), text, vector_of(seed)))

    def patch(self, id: str, patch: dict[str, Any]) -> None:
        self.metadata[id] = merged(self.metadata[id], patch)

    def delete(self, id: str) -> None:
        del self.metadata[id], self.chunks[id], self.pieces[id]

    def passing(self, wanted: dict[str, Any] | None) -> dict[int, Piece]:
        made = None if wanted is None else parse(wanted)
        return {
            piece.age: piece
            for id, pieces in self.pieces.items()
            if made is None or matches(made, self.metadata[id])
            for piece in pieces
        }


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@dataclass
class Stage:
    """A running server that many stories share, each with a library of its own."""

    portal: BlockingPortal
    parts: Parts

    def story(self, told: Callable[..., Awaitable[None]], *given: Any) -> None:
        self.portal.call(told, self.parts, *given)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tiny = {"seal_rows": 16, "exact_rows": 0, "ef_search": 16, "settle": 0.01}
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(whole(tmp_path_factory.mktemp("data"), **tiny)) as parts,
    ):
        yield Stage(portal, parts)


@given(
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    begun=st.lists(PUT, min_size=2, max_size=6),
    churn=CHURN,
    asked=st.lists(ASKED, min_size=2, max_size=3),
    size=st.integers(1, 9),
    weights=st.sampled_from([None, (1.0, 0.3), (0.0, 1.0), (2.5, 0.0)]),
)
@settings(max_examples=50, deadline=None)
def test_every_mode_finds_what_a_dictionary_holds(
    stage: Stage,
    metric: Metric,
    begun: list[tuple[Any, ...]],
    churn: list[tuple[Any, ...]],
    asked: list[tuple[Any, ...]],
    size: int,
    weights: tuple[float, float] | None,
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_LEG_DEPTH", 4)  # so that few chunks are more than the legs see
        stage.story(_story, metric, [*begun, *churn, *asked], size, weights)


async def _story(
    parts: Parts,
    metric: Metric,
    steps: list[tuple[Any, ...]],
    size: int,
    weights: tuple[float, float] | None,
) -> None:
    name = SystemClock().uuid7().replace("-", "")
    library = await parts.libraries.create(name, metric=metric, language="none")
    model = Model()
    for step in steps:
        match step:
            case ("put", id, chunks, own):
                given = [(text, vector_of(seed).tolist()) for text, seed in chunks]
                await put(parts, library, id, given, own)
                model.put(id, chunks, own)
            case ("patch", id, patch) if id in model.chunks:
                await parts.documents.patch(library, id, metadata=patch)
                model.patch(id, patch)
            case ("delete", id) if id in model.chunks:
                await parts.documents.delete(library, id)
                model.delete(id)
            case ("ask", wanted, seed, text):
                await _compare(parts, library, model, wanted, seed, text, size, weights)
    await parts.libraries.delete(library.id)


async def _compare(
    parts: Parts,
    library: Library,
    model: Model,
    wanted: dict[str, Any] | None,
    seed: int,
    text: str,
    size: int,
    weights: tuple[float, float] | None,
) -> None:
    passing = model.passing(wanted)
    ask = Asker(parts, library, wanted)

    # By a vector: the same rows in the same order with the same scores; approximately, too, none
    # that does not pass and no fewer than there are.
    query = vector_of(seed)
    held = {age: piece.vector for age, piece in passing.items()}
    ages, scores = ranked(library.metric, held, query, len(held))
    right = [passing[age].id for age in ages]
    near = await ask(vector=query.tolist(), exact=True)
    assert ids(near) == right
    assert [hit.score for hit in near.hits] == scores
    some = await ask(vector=query.tolist(), k=size)
    assert len(some.hits) == min(size, len(passing))
    own = dict(zip(right, scores, strict=True))
    assert all(hit.score == own[id] for hit, id in zip(some.hits, ids(some), strict=True))

    # By words: whatever has one of them.
    words = await ask(query=text, mode="keyword")
    asked = set(text.split())
    assert sorted(ids(words)) == sorted(
        piece.id for piece in passing.values() if asked & set(piece.text.split())
    )
    everyone = await Asker(parts, library, None)(query=text, mode="keyword")
    kept = set(ids(words))
    assert places(words) == [place for place in places(everyone) if place[0] in kept]

    # By both: the legs' own answers, fused.
    depth = max(4, 2 * (size + 1))
    legs = {
        "vector": places(await ask(query=text, mode="vector", exact=True, k=depth)),
        "keyword": places(await ask(query=text, mode="keyword", k=depth)),
    }
    shares = dict(zip(("vector", "keyword"), weights or (1, 1), strict=True))
    age_of = {piece.id: piece.age for piece in passing.values()}
    fused = fuse(legs, shares, age_of)
    both = Weights(*weights) if weights else None

    # And in pages, each of its own answers.
    for wish, expected in (
        ({"vector": query.tolist(), "exact": True}, places(near)),
        ({"query": text, "mode": "keyword"}, places(words)),
        ({"query": text, "mode": "hybrid", "exact": True, "weights": both}, fused),
    ):
        seen = await ask.pages(size, **wish)
        assert [hit.rank for hit in seen] == list(range(1, len(seen) + 1))
        assert [name(hit) for hit in seen] == [id for id, _ in expected]
        assert [hit.score for hit in seen] == pytest.approx([score for _, score in expected])
        for hit in seen:
            assert (hit.legs or {}) == {
                leg: (rank, score)
                for leg, found in legs.items()
                if wish.get("mode") == "hybrid"
                for rank, (id, score) in enumerate(found, 1)
                if id == name(hit)
            }


@dataclass
class Asker:
    parts: Parts
    library: Library
    filter: dict[str, Any] | None

    async def __call__(self, *, k: int = 1_000, **wish: Any) -> Answer:
        return await self.parts.search.search(self.library, Query(k=k, filter=self.filter, **wish))

    async def pages(self, size: int, **wish: Any) -> list[Hit]:
        seen: list[Hit] = []
        after: str | None = None
        while True:
            answer = await self(k=size, after=after, **wish)
            seen += answer.hits
            if answer.next is None:
                return seen
            assert len(answer.hits) == size
            after = answer.next


def fuse(
    legs: dict[str, list[tuple[str, float]]], weights: dict[str, float], ages: dict[str, int]
) -> list[tuple[str, float]]:
    scores: dict[str, float] = {}
    for leg, found in legs.items():
        for rank, (id, _) in enumerate(found, 1):
            scores[id] = scores.get(id, 0) + weights[leg] / (60 + rank)
    above = [(id, score) for id, score in scores.items() if score > 0]
    return sorted(above, key=lambda one: (-one[1], ages[one[0]]))


def name(hit: Hit) -> str:
    return chunk_id(hit.passage.document_id, hit.passage.ordinal)


def ids(answer: Answer) -> list[str]:
    return [name(hit) for hit in answer.hits]


def places(answer: Answer) -> list[tuple[str, float]]:
    return [(name(hit), hit.score) for hit in answer.hits]
