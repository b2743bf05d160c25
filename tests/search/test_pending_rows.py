"""Views and documents that wait for their vectors: passed by first, taken in when embedded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search.house import DIMENSION, House, house
from store.backend import draft

from headwater.model import Library, Vectors
from headwater.store.base import Embedding, EmbedDocuments, Missing, PutDocuments

pytestmark = pytest.mark.anyio


def matrix(count: int, seed: int) -> Vectors:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


async def put_pending(home: House, library: Library, ids: Sequence[str], seed: int) -> None:
    """Documents of three chunks, the middle one with a vector."""
    drafts = [draft(id, f"{id} {seed} x", f"{id} {seed} y", f"{id} {seed} z") for id in ids]
    marks = np.array([True, False, True] * len(ids))
    missing = Missing(marks, 1, 0, "embedder_unavailable", "down", True)
    command = PutDocuments(library.number, drafts, matrix(len(marks), seed), missing=missing)
    written: Any = await home.store.write(command)
    await home.views.caught_up(library.id, written[-1].position)


async def embed(home: House, library: Library, limit: int, seed: int) -> None:
    waiting = await home.store.read(lambda r: r.due_documents(library.number, limit=limit))
    items = [
        Embedding(document.id, document.chunks, matrix(document.chunks.count, seed + at))
        for at, document in enumerate(waiting)
    ]
    positions: Any = await home.store.write(EmbedDocuments(library.number, items))
    await home.views.caught_up(library.id, max(positions, default=0))


async def test_a_view_takes_in_what_is_embedded_later(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        library = await home.library()
        await home.put(library, ["a", "b"], matrix(2, 0))
        await home.agrees(library)
        await put_pending(home, library, ["p", "q"], 1)
        assert len(await home.views.rows(library)) == 4
        await home.agrees(library)
        await embed(home, library, 1, 2)
        assert len(await home.views.rows(library)) == 6
        await home.agrees(library)
    # What was pending when the view was saved is embedded before and after it is loaded again.
    async with house(tmp_path) as home:
        await home.agrees(library)
        await embed(home, library, 9, 3)
        assert len(await home.views.rows(library)) == 8
        await home.agrees(library)


@pytest.mark.parametrize("seed", range(3))
async def test_random_waiting_and_embedding_agrees_with_the_store(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    ids = [f"d{n}" for n in range(30)]
    library: Library | None = None
    for _ in range(3):
        async with house(tmp_path) as home:
            library = library or await home.library()
            for step in range(15):
                some = chance.sample(ids, chance.randint(1, 12))
                match chance.choice(("put", "pending", "embed", "embed")):
                    case "put":
                        await home.put(library, some, matrix(len(some), step))
                    case "pending":
                        await put_pending(home, library, some, chance.randrange(1000))
                    case _:
                        await embed(home, library, chance.randint(1, 20), step)
                if chance.random() < 0.3:
                    await home.agrees(library, step)
            await home.agrees(library)
