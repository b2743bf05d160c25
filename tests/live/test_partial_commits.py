"""A page of the log may end inside a commit, and the ring gives that commit whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import numpy as np
import pytest
from live.model import DIMENSION, vector_of
from live.reader import ShownHits
from service.whole import running

from headwater.app import Parts
from headwater.changes import Ring
from headwater.live import step as steps
from headwater.live.matcher import Matcher
from headwater.model import Change, Library, Span
from headwater.service.live import LiveQuery
from headwater.settings import Settings


@pytest.mark.anyio
async def test_what_a_page_had_of_a_commit_is_not_put_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits come while the matcher is busy, and the ring holds only the second."""
    monkeypatch.setattr(steps, "_PAGE_CHANGES", 3)
    gate, match = anyio.Event(), Matcher._match

    async def held(self: Matcher, *args: Any, **more: Any) -> Any:
        await gate.wait()
        return await match(self, *args, **more)

    async with running(Settings(data=tmp_path)) as parts:
        parts.log.ring = Ring(1)
        library = await parts.libraries.create("notes", embedder="none", dimension=DIMENSION)
        query = LiveQuery(vector=vector_of(1).tolist(), k=6)
        shown = ShownHits(grouped=False)
        async with parts.live.watch(library, query) as watch:
            with anyio.fail_after(20):
                while (deltas := await watch.take()) is None:
                    await watch.wait()
                for sent in deltas.events:
                    shown.hear(sent.event, msgspec.json.decode(sent.data))
                monkeypatch.setattr(Matcher, "_match", held)
                await _put(parts, library, "busy")
                await anyio.wait_all_tasks_blocked()
                await _put(parts, library, "first")
                await _put(parts, library, *(f"d{number}" for number in range(5)))
                gate.set()
                while watch.matcher.position < parts.log.head or watch.rung:
                    deltas = await watch.take()
                    for sent in deltas.events if deltas else ():
                        shown.hear(sent.event, msgspec.json.decode(sent.data))
                    await anyio.lowlevel.checkpoint()
        ids = [hit["document_id"] for hit in shown.hits]
        assert ids == ["busy", "first", "d0", "d1", "d2", "d3"]


async def _put(parts: Parts, library: Library, *ids: str) -> None:
    vector = vector_of(1).tolist()
    bodies = [msgspec.json.encode({"id": id, "chunks": [{"vector": vector}]}) for id in ids]
    await parts.documents.put_batch(library, bodies)


def test_vectors_of_changes_that_were_had_before_are_not_the_last_documents() -> None:
    rows, matrix = np.arange(5, 9), np.ones((4, 2), np.float32)
    last = Change(4, 0, "document.added", "library", "last", b"{}", added=Span(7, 2))
    step = steps.make(3, 4, [last], [(rows, matrix)], metric="dot", dimension=2)
    assert step.rows.tolist() == [7, 8]
    assert step.document.tolist() == [0, 0]
    assert not len(steps.make(4, 4, [], [(rows, matrix)], metric="dot", dimension=2).rows)
