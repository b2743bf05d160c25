"""The doctor beside a server that goes on writing: no false alarm, and no true one missed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from anyio import to_thread
from search.keyword_house import keyword_house

from headwater.app import Parts, started
from headwater.clock import SystemClock
from headwater.doctor import _compared, _memory, _text_rows, examine
from headwater.model import Rows
from headwater.search.metadata_snapshot import load, save
from headwater.search.metadata_views import Kept, MetadataViews
from headwater.settings import SearchSettings, Settings
from headwater.store.base import DeleteDocument

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("wrongly", "detail"),
    [
        (None, "3 chunks in the store, 4 in the view"),
        ("lost", "3 chunks in the store, 3 in the view, 1 missing and 0 too many"),
        ("extra", "3 chunks in the store, 5 in the view, 0 missing and 1 too many"),
    ],
)
async def test_what_changes_while_the_doctor_looks_is_not_wrong(
    tmp_path: Path, wrongly: str | None, detail: str
) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        for id in ("gone", "stays", "changed"):
            await house.put(library, id, id)
        await house.store.write(DeleteDocument(library.number, "gone"))

        async def viewed() -> Rows:
            """Rows as of a moment at which `passing` was there and `new` was not yet."""
            await house.put(library, "changed", "something else")
            await house.put(library, "passing", "passing")
            rows = list(await house.passages(library))
            await house.store.write(DeleteDocument(library.number, "passing"))
            await house.put(library, "new", "new")
            stale = [3]  # what `changed` had: a view between two commits
            rows += stale
            if wrongly == "lost":
                rows.remove(2)
            if wrongly == "extra":
                rows.append(1)
            return np.array(sorted(rows), np.int64)

        told: Any = await _compared(
            cast(Parts, house), lambda reader: _text_rows(reader, library), viewed, "view"
        )
        assert (told.ok, told.detail) == (wrongly is None, detail)


async def test_without_writers_every_row_counts(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put(library, "a", "a")

        async def viewed() -> Rows:
            return np.array([1, 2], np.int64)

        told: Any = await _compared(
            cast(Parts, house), lambda reader: _text_rows(reader, library), viewed, "view"
        )
        assert told.detail.endswith("0 missing and 1 too many")


async def test_a_library_that_loads_slowly_is_well(tmp_path: Path) -> None:
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put(library, "a", "a")
    hasty = Settings(data=tmp_path, search=SearchSettings(max_wait=timedelta(microseconds=1)))
    findings = await to_thread.run_sync(examine, hasty)
    assert all(finding.ok for finding in findings), findings


@pytest.mark.parametrize("spoilt", [False, True])
async def test_the_metadata_index_is_compared_and_its_memory_counted(
    tmp_path: Path, spoilt: bool
) -> None:
    kept = Kept(tmp_path / "metadata", lambda: True)
    async with keyword_house(tmp_path) as house:
        library = await house.library()
        await house.put_all(library, [(f"d{number}", ("a text",), None) for number in range(100)])
        views = MetadataViews(
            SearchSettings(), house.log, SystemClock(), memory_bytes=1_000_000, kept=kept
        )
        async with started(views.run):
            assert len(await views.rows(library)) == 100
        log_id = house.store.log_id
    path = kept.path(library.id)
    found = load(path, log_id, library.id)
    assert found is not None
    if spoilt:
        index, position = found
        index.remove(np.array([7], np.int64))
        save(path, log_id, library.id, position, index)
    findings = await to_thread.run_sync(examine, Settings(data=tmp_path))
    by_name = {finding.name: finding for finding in findings}
    told = by_name[f"{library.name}: metadata"]
    assert (told.ok, told.detail) == (
        not spoilt,
        "100 chunks in the store, 99 in the index, 1 missing and 0 too many"
        if spoilt
        else "100 chunks in the store, 100 in the index",
    )


def test_memory_has_room_for_vectors_filters_and_the_largest_graph() -> None:
    told = _memory([500_000_000, 100_000_000], 30_000_000, Settings())
    assert told.detail.startswith(
        "about 880 MB with all vectors loaded, up to 1,430 MB while the largest graph is rebuilt"
    )
