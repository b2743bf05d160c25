"""Searches at the edges of what the views and the store can give."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import anyio
import pytest
from service.whole import put, search_of, whole

from headwater.errors import NotCaughtUp
from headwater.filters import Filter
from headwater.model import Library, Position
from headwater.search.base import KeywordEngine, MetadataEngine
from headwater.search.metadata_selection import Selection
from headwater.service.query import Query

pytestmark = pytest.mark.anyio


class Behind:
    """Keyword views that never catch up."""

    async def search(self, *asked: Any, **how: Any) -> Any:
        raise NotCaughtUp("not yet; ask again")


async def test_what_one_leg_raises_the_hybrid_search_raises(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts, anyio.create_task_group() as tasks:
        library = await parts.libraries.create("notes")
        await put(parts, library, "a", [("the moon", None)])
        search = search_of(parts, keyword=cast(KeywordEngine, Behind()))
        await tasks.start(search.run)
        with pytest.raises(NotCaughtUp):
            await search.search(library, Query(query="moon"))
        one, other = await search.search_all(
            library, [Query(query="moon"), Query(query="moon", mode="vector")]
        )
        assert isinstance(one, NotCaughtUp)
        assert not isinstance(other, Exception)
        tasks.cancel_scope.cancel()


class Watched:
    """Metadata views whose selections are counted while they live."""

    def __init__(self, views: MetadataEngine) -> None:
        self._views = views
        self.alive: WeakSet[Selection] = WeakSet()

    async def select(self, library: Library, filter: Filter) -> tuple[Selection, Position]:
        found, position = await self._views.select(library, filter)
        assert isinstance(found, Selection)
        self.alive.add(found)
        return found, position


async def test_selections_are_let_go_of(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts, anyio.create_task_group() as tasks:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        watched = Watched(parts.metadata)
        search = search_of(parts, metadata=watched)
        await tasks.start(search.run)
        for number in range(20):  # each write makes the selections before it useless
            await put(parts, library, f"d{number}", [(None, [1, number])], {"n": number})
            await search.search(library, Query(vector=[1, 0], filter={"n": {"$gte": 0}}))
        gc.collect()
        assert len(watched.alive) <= 2
        tasks.cancel_scope.cancel()
