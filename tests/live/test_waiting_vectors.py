"""Documents that wait for their vectors are seen when they have them: live, and by alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest
from live.model import vector_of
from live.test_comeback import next_events
from service.whole import running
from store.backend import draft

from headwater.model import Library, Written
from headwater.service.alerts import NewAlert
from headwater.service.live import LiveQuery
from headwater.settings import Settings
from headwater.store.base import Embedding, EmbedDocuments, Missing, PutDocuments


@pytest.mark.anyio
async def test_a_pending_document_enters_when_it_is_embedded(tmp_path: Path) -> None:
    async with running(Settings(data=tmp_path)) as parts:
        vectors = np.stack([vector_of(1), vector_of(2)])
        dimension = vectors.shape[1]
        library: Library = await parts.libraries.create(
            "notes", embedder="none", dimension=dimension
        )
        await parts.alerts.create(library, NewAlert(0.9, vector=vector_of(2).tolist()))
        query = LiveQuery(vector=vector_of(2).tolist(), score_threshold=0.9)
        async with parts.live.watch(library, query) as watch:
            await next_events(watch)
            missing = Missing(np.array([False, True]), 0, 1 << 60, "x", "not now", True)
            written: list[Written] = await parts.log.store.write(
                PutDocuments(library.number, [draft("d", "one", "two")], vectors, missing=missing)
            )
            document = await parts.documents.get(library, "d")
            item = Embedding("d", document.document.chunks, vectors)
            (position,) = await parts.log.store.write(EmbedDocuments(library.number, [item]))
            assert written[0].pending is not None
            (entered,) = await next_events(watch)
            data: dict[str, Any] = msgspec.json.decode(entered.data)
            assert (entered.event, data["hit"]["chunk_id"]) == ("enter", "d#1")
            assert data["cursor"] == str(parts.log.cursor(position))
        with anyio.fail_after(20):
            await parts.alert_matching.reached.wait_past(position - 1)
        page = await parts.log.read(0, 100, types={"alert.matched"})
        assert [msgspec.json.decode(change.data)["chunk_id"] for change in page.changes] == ["d#1"]
