"""Pages of documents: whole, in order, and never larger than they may be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from service.whole import put, whole
from store.backend import DIMENSION, draft, put_pending

from headwater.app import Parts
from headwater.filters import parse
from headwater.model import Library
from headwater.service import listing

pytestmark = pytest.mark.anyio


async def pages(parts: Parts, library: Library, limit: int, **how: Any) -> list[list[str]]:
    """The ids of every page, one after the other."""
    found: list[list[str]] = []
    after: int | None = 0
    asked = {"chunks": True, "vectors": True, **how}
    while after is not None:
        page = await parts.documents.page(library, after, limit, **asked)
        found.append([one.document.id for one in page.documents])
        after = page.next_row
    return found


def lengths(found: Sequence[Sequence[str]]) -> list[int]:
    return [len(page) for page in found]


@pytest.mark.parametrize("filter", [None, {"kind": "even"}])
async def test_a_page_ends_where_it_has_grown_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filter: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 5_000)
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=100)
        for number in range(40):
            kind = {"kind": "odd" if number % 2 else "even"}
            await put(parts, library, f"d{number}", [("text", [1.0] * 100)], kind)
        wanted = [f"d{number}" for number in range(0, 40, 2 if filter else 1)]
        checked = None if filter is None else parse(filter)
        # With vectors a document takes some 2,200 bytes, without them next to nothing.
        large = await pages(parts, library, 1_000, filter=checked)
        assert [*chain(*large)] == wanted
        assert set(lengths(large[:-1])) == {3}
        small = await pages(parts, library, 9, vectors=False, filter=checked)
        assert [*chain(*small)] == wanted
        assert set(lengths(small[:-1])) == {9}
        bare = await pages(parts, library, 1_000, chunks=False, vectors=False, filter=checked)
        assert bare == [wanted]


async def test_one_document_is_on_a_page_however_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 1_000)
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=2)
        for number in range(3):
            await put(parts, library, f"d{number}", [("word " * 1_000, [1, number])])
        assert await pages(parts, library, 10) == [["d0"], ["d1"], ["d2"]]


async def test_pending_documents_are_paged_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_BYTES", 10)
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("later", embedder="none", dimension=DIMENSION)
        await put(parts, library, "there", [("text", [1.0] * DIMENSION)])
        drafts = [draft(f"d{number}", "twelve bytes") for number in range(3)]
        await parts.store.write(put_pending(library, *drafts))
        assert await pages(parts, library, 10, pending=True) == [["d0"], ["d1"], ["d2"]]
