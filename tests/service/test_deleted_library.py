"""Who has found a library before it was deleted hears so, and never that it is empty.

A delete on another process is known here a moment later, so that whoever reads then has a library
in hand that is no more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from service.job_house import job_house, unit

from headwater.app import Parts
from headwater.errors import LibraryNotFound
from headwater.filters import parse
from headwater.model import Library

pytestmark = pytest.mark.anyio

Reading = Callable[[Parts, Library], Awaitable[Any]]


async def listed(parts: Parts, library: Library) -> Any:
    return await parts.documents.page(library, 0, 10, chunks=False, vectors=False)


async def counted(parts: Parts, library: Library) -> Any:
    return await parts.deletions.matching(
        library, parse({}), after_row=0, limit=10, dry_run=True, searchable=False
    )


async def deleted_by_filter(parts: Parts, library: Library) -> Any:
    return await parts.deletions.matching(
        library, parse({}), after_row=0, limit=10, dry_run=False, searchable=False
    )


async def deleted_by_name(parts: Parts, library: Library) -> Any:
    return await parts.deletions.named(library, ["a"], dry_run=True, searchable=False)


async def exported(parts: Parts, library: Library) -> Any:
    async def answer(piece: bytes) -> None:
        raise AssertionError(piece)

    try:
        await parts.export.run(library, answer, include=(), resume=None)
    except* LibraryNotFound as group:
        raise group.exceptions[0] from None


@pytest.mark.parametrize("reading", [listed, counted, deleted_by_filter, deleted_by_name, exported])
async def test_library_that_is_gone_by_now_is_not_taken_for_empty(
    tmp_path: Path, reading: Reading
) -> None:
    async with job_house(tmp_path) as home:
        library = await home.library()
        await home.put(library, {"id": "a", "chunks": [{"vector": unit(1, 3)}]})
        await home.parts.libraries.delete(library.id)
        with pytest.raises(LibraryNotFound):
            await reading(home.parts, library)
