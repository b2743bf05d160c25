"""The metadata view over a real store: after every write it selects what the store holds."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from heard import Heard
from store.backend import create, draft, put
from store.spine import Spine, spine

from headwater.app import started
from headwater.clock import SystemClock
from headwater.errors import LibraryNotFound
from headwater.filters import matches, parse
from headwater.model import Library
from headwater.search.metadata_views import Kept, MetadataViews
from headwater.settings import SearchSettings
from headwater.store.base import DeleteDocument, PatchDocument, Reader
from headwater.store.library_commands import DeleteLibrary
from headwater.store.reader import SqliteReader

pytestmark = pytest.mark.anyio

FILTERS: list[dict[str, Any]] = [
    {},
    {"n": {"$gte": 3}},
    {"n": {"$ne": 3}, "lang": {"$in": ["en", "de"]}},
    {"tags": {"$contains": "a"}},
    {"page": 1, "at": {"$lt": "2024-06-01"}},
    {"$or": [{"page": {"$exists": False}}, {"lang": "fr"}]},
]


@dataclass
class Views(Spine):
    views: MetadataViews

    async def agrees(self, library: Library) -> None:
        """Every filter selects what the reference says of what the store holds now."""

        def read(reader: Reader) -> dict[int, dict[str, Any]]:
            held = {}
            documents = reader.documents(library.number, after_row=0, limit=10_000)
            for document, chunks in zip(documents, reader.chunks(documents), strict=True):
                for chunk in chunks:
                    own = msgspec.json.decode(chunk.metadata or b"{}")
                    held[chunk.row] = {**msgspec.json.decode(document.metadata), **own}
            return held

        held = await self.store.read(read)
        for wanted in map(parse, FILTERS):
            selection, position = await self.views.select(library, wanted)
            expected = sorted(row for row, own in held.items() if matches(wanted, own))
            assert selection.rows().tolist() == expected
            assert position >= await self.store.read(lambda reader: reader.head())


@asynccontextmanager
async def opened(folder: Path, *, keeps: bool = True) -> AsyncIterator[Views]:
    kept = Kept(folder / "metadata", lambda: keeps)
    async with spine(folder) as on:
        views = MetadataViews(
            SearchSettings(), on.log, SystemClock(), memory_bytes=1 << 30, kept=kept
        )
        async with started(views.run):
            yield Views(on.store, on.log, views)


def random_draft(rng: random.Random) -> Any:
    metadata = {
        "n": rng.randrange(6),
        "lang": rng.choice(["en", "de", "fr"]),
        "tags": rng.sample(["a", "b", "c"], rng.randrange(3)),
        "at": f"2024-{rng.randrange(1, 13):02}-01",
    }
    if rng.random() < 0.5:
        metadata["page"] = 7
    made = draft(
        f"d{rng.randrange(12)}",
        *(f"text {rng.randrange(4)}" for _ in range(rng.randrange(4))),
        metadata=msgspec.json.encode(metadata, order="deterministic"),
    )
    chunks = tuple(
        msgspec.structs.replace(chunk, metadata=b'{"page":%d}' % at if at % 2 else None)
        for at, chunk in enumerate(made.chunks)
    )
    own = str([chunk.metadata for chunk in chunks]).encode()
    return msgspec.structs.replace(made, chunks=chunks, body_hash=made.body_hash + own)


async def test_random_writes_and_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    async with opened(tmp_path) as house:
        library = await house.store.write(create("books"))
        other = await house.store.write(create("other"))
        await house.agrees(library)
        for _ in range(120):
            name = f"d{rng.randrange(12)}"
            match rng.randrange(6):
                case 0:
                    await house.store.write(put(other, random_draft(rng)))
                case 1:
                    patch = {"n": rng.randrange(6), "page": rng.choice([None, 1])}
                    held = await house.document(library, name)
                    if held is not None:
                        command = PatchDocument(library.number, name, metadata=patch)
                        await house.store.write(command)
                case 2:
                    held = await house.document(library, name)
                    if held is not None:
                        await house.store.write(DeleteDocument(library.number, name))
                case _:
                    drafts = [random_draft(rng) for _ in range(rng.randrange(1, 4))]
                    await house.store.write(put(library, *drafts))
            await house.agrees(library)
        await house.agrees(other)
        assert {status.state for status in house.views.status()} == {"ready"}
    with monkeypatch.context() as deaf:
        deaf.setattr(SqliteReader, "described", None)  # it is not read again
        async with opened(tmp_path) as house:
            assert not house.views.opened(library.id)
            await house.store.write(put(library, *(random_draft(rng) for _ in range(9))))
            await house.agrees(library)
            assert house.views.opened(library.id)
            await house.store.write(put(library, *(random_draft(rng) for _ in range(9))))
            await house.agrees(library)


@pytest.mark.parametrize("harm", ["cut", "flip", "foreign", "empty"])
async def test_a_damaged_file_is_not_used(tmp_path: Path, harm: str) -> None:
    async with opened(tmp_path) as house:
        library = await house.store.write(create("books"))
        await house.store.write(put(library, draft("x", "a", "b"), draft("y", "c")))
        await house.agrees(library)
    (file,) = (tmp_path / "metadata").iterdir()
    content = file.read_bytes()
    match harm:
        case "cut":
            file.write_bytes(content[:-5])
        case "flip":
            file.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
        case "empty":
            file.write_bytes(b"")
    async with opened(tmp_path) as house:
        if harm == "foreign":
            await house.store.restore_identity()
        await house.agrees(library)
        (status,) = house.views.status()
        assert status.reason is not None
        await house.store.write(DeleteLibrary(library.number))
        with pytest.raises(LibraryNotFound):
            await house.views.select(library, parse({}))
    assert list((tmp_path / "metadata").iterdir()) == []


async def test_files_of_a_library_deleted_meanwhile_are_swept(tmp_path: Path, heard: Heard) -> None:
    folder = tmp_path / "metadata"
    async with opened(tmp_path) as house:
        library, other = await house.create("books"), await house.create("other")
        for one in (library, other):
            await house.store.write(put(one, draft("x", "a")))
            await house.agrees(one)
    file, kept = (folder / f"{one.id}.metadata" for one in (library, other))
    half = folder / f"{other.id}.metadata.0.part"  # as a process killed while it wrote leaves it
    half.write_bytes(b"half")
    foreign = folder / "notes.metadata"
    foreign.touch()
    async with opened(tmp_path, keeps=False) as house:
        await house.store.write(DeleteLibrary(library.number))
    assert file.exists()
    async with opened(tmp_path) as house:
        await heard.line("view.removed", kind="metadata", library=library.id)
        assert sorted(folder.iterdir()) == sorted([kept, foreign])


async def test_a_patch_of_metadata_alone_moves_its_rows(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.store.write(create("books"))
        await house.store.write(put(library, draft("x", "a", "b"), draft("y", "c")))
        english, french = parse({"lang": "en"}), parse({"lang": "fr"})
        before, _ = await house.views.select(library, english)
        await house.store.write(PatchDocument(library.number, "x", metadata={"lang": "fr"}))
        after, position = await house.views.select(library, english)
        moved, _ = await house.views.select(library, french)
        assert (before.count, after.count, moved.count) == (3, 1, 2)
        assert sorted([*after.rows(), *moved.rows()]) == before.rows().tolist()
        assert after.mask(before.rows()).tolist() == [False, False, True]
        await house.views.caught_up(library.id, position)


async def test_documents_written_while_the_view_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.search.metadata_views._PAGE_DOCUMENTS", 2)
    async with opened(tmp_path) as house:
        library = await house.store.write(create("books"))
        await house.store.write(put(library, *(draft(f"d{n}", "a") for n in range(40))))
        house.views.open(library)
        for number in range(20):
            await house.store.write(put(library, draft(f"d{number}", "b", metadata=b'{"n":1}')))
            await house.store.write(DeleteDocument(library.number, f"d{20 + number}"))
        await house.agrees(library)
        ones, _ = await house.views.select(library, parse({"n": 1}))
        assert ones.count == 20
        assert ones.mask(np.array([1, 2, 10**9])).tolist() == [False, False, False]


async def test_a_deleted_library_is_not_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        library = await house.store.write(create("books"))
        await house.store.write(put(library, draft("x", "a")))
        await house.agrees(library)
        await house.store.write(DeleteLibrary(library.number))
        with pytest.raises(LibraryNotFound):
            await house.views.select(library, parse({}))
        assert not house.views.opened(library.id)
