"""Random commands against a dictionary: the log must tell the whole story.

Commands are submitted in groups, so that some share a transaction; after each run every
document's state is derived twice, from the model and from the log alone, and compared with what
the store reads.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.backend import DIMENSION, Opened, create, draft, put, put_pending, vector
from store.reading import chunks_of, documents_after, is_sound, whole_log
from store.test_sqlite import SqliteBackend

from headwater.clock import SystemClock
from headwater.errors import (
    DocumentExists,
    DocumentNotFound,
    HeadwaterError,
    LibraryNotFound,
    VersionMismatch,
)
from headwater.model import Library
from headwater.settings import StoreSettings
from headwater.store.base import DeleteDocument, Embedding, EmbedDocuments, PatchDocument
from headwater.store.library_commands import DeleteLibrary, SweepLibraries
from headwater.store.migrate import prepare

NAMES = ("one", "two")
LACKING = "xy"
"""Chunks with these texts have no vector in a "put pending"."""
METADATA = (b'{"lang":"en"}', b'{"lang":"sv","n":1}')

name = st.sampled_from(NAMES)
id = st.sampled_from(["a", "b/ö", "c", "d"])
drafts = st.lists(
    st.builds(
        lambda id, bodies, title, metadata, must_be_new, version: draft(
            id,
            *bodies,
            title=title,
            metadata=metadata,
            must_be_new=must_be_new,
            if_version=version,
        ),
        id,
        st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
        st.sampled_from([None, "T"]),
        st.sampled_from(METADATA),
        st.booleans(),
        st.sampled_from([None, None, 1, 2]),
    ),
    max_size=6,
)
step = st.one_of(
    st.tuples(st.just("put"), name, drafts),
    st.tuples(st.just("put"), name, drafts),
    st.tuples(st.just("put pending"), name, drafts),
    st.tuples(st.just("embed"), name, id),
    st.tuples(st.just("patch"), name, id, st.sampled_from(["T", "U"])),
    st.tuples(st.just("delete"), name, id),
    st.tuples(st.just("delete library"), name),
    st.tuples(st.just("create library"), name),
    st.tuples(st.just("sweep")),
)
story = st.lists(st.lists(step, min_size=1, max_size=5), min_size=1, max_size=8)


@dataclass
class Expected:
    """A document as the dictionary has it."""

    version: int
    title: str | None
    metadata: Any
    bodies: tuple[str, ...]
    pending: bool = False


Model = dict[str, dict[str, Expected]]


def expect_put(documents: dict[str, Expected], d: Any, lacking: str = "") -> object:
    bodies = tuple(chunk.text for chunk in d.chunks)
    old = documents.get(d.id)
    pending = old.pending if old and old.bodies == bodies else any(b in lacking for b in bodies)
    new = Expected(old.version + 1 if old else 1, d.title, json.loads(d.metadata), bodies, pending)
    if d.if_version is not None and (old is None or old.version != d.if_version):
        return VersionMismatch
    if old is not None and (old.title, old.metadata, old.bodies) == (
        new.title,
        new.metadata,
        new.bodies,
    ):
        return "unchanged"
    if old is not None and d.must_be_new:
        return DocumentExists
    documents[d.id] = new
    return "updated" if old else "created"


def expect(model: Model, action: tuple[Any, ...]) -> object:
    """Do `action` to the model; what the store should answer."""
    match action:
        case ("sweep",):
            return None
        case ("create library", name):
            model[name] = {}
            return None
        case (_, name, *_) if name not in model:
            return LibraryNotFound
        case ("put", name, drafts):
            return [expect_put(model[name], each) for each in drafts]
        case ("put pending", name, drafts):
            return [expect_put(model[name], each, LACKING) for each in drafts]
        case ("patch", name, id, title):
            if id not in model[name]:
                return DocumentNotFound
            document = model[name][id]
            if document.title == title:
                return "unchanged"
            document.title, document.version = title, document.version + 1
            return "updated"
        case ("delete", name, id):
            return None if model[name].pop(id, None) else DocumentNotFound
        case ("delete library", name):
            del model[name]
            return None
    raise AssertionError(action)


def command(action: tuple[Any, ...], numbers: dict[str, int]) -> Any:
    match action:
        case ("sweep",):
            return SweepLibraries(limit=2)
        case ("create library", name):
            return create(name)
        case ("put", name, drafts):
            return put(numbers[name], *drafts)
        case ("put pending", name, drafts):
            return put_pending(numbers[name], *drafts, lacking=LACKING)
        case ("patch", name, id, title):
            return PatchDocument(numbers[name], id, title=title)
        case ("delete", name, id):
            return DeleteDocument(numbers[name], id)
        case ("delete library", name):
            return DeleteLibrary(numbers[name])
    raise AssertionError(action)


def summary(result: Any) -> object:
    """A result as the model gives it."""
    if isinstance(result, list):
        return [summary(each) for each in result]
    if isinstance(result, HeadwaterError):
        return type(result)
    return getattr(result, "status", None)


async def tell(opened: Opened, groups: list[list[tuple[Any, ...]]]) -> Model:
    """Live the story; every answer must be the model's."""
    model: Model = {}
    numbers = dict.fromkeys(NAMES, 10**6)
    for group in groups:
        # A library made within the group has no number yet: it is made before.
        for action in group:
            if action[0] == "create library" and action[1] not in model:
                library: Library = await opened.store.write(create(action[1]))
                numbers[action[1]] = library.number
                model[action[1]] = {}
        embeds = [action for action in group if action[0] == "embed"]
        actions = [action for action in group if action[0] not in ("create library", "embed")]
        expected = [expect(model, action) for action in actions]
        answers: list[object] = [None] * len(actions)

        async def write(i: int, action: tuple[Any, ...], answers: list[object] = answers) -> None:
            try:
                answers[i] = summary(await opened.store.write(command(action, numbers)))
            except HeadwaterError as error:
                answers[i] = type(error)

        async with anyio.create_task_group() as tasks:
            for i, action in enumerate(actions):
                tasks.start_soon(write, i, action)
        assert answers == expected
        for _, name, id in embeds:
            if name in model:
                await embed(opened, numbers[name], model[name].get(id), id)
    return model


async def embed(opened: Opened, number: int, expected: Expected | None, id: str) -> None:
    """Give the document its vectors if it waits for them; then there is nothing left to do."""
    document = await opened.store.read(lambda reader: reader.document(number, id))
    assert (document is not None and document.pending is not None) == bool(
        expected and expected.pending
    )
    if document is None or expected is None:
        return
    vectors = np.array([vector(body) for body in expected.bodies], np.float32).reshape(
        -1, DIMENSION
    )
    command = EmbedDocuments(number, [Embedding(id, document.chunks, vectors)])
    assert [position is not None for position in await opened.store.write(command)] == [
        expected.pending
    ]
    expected.pending = False
    assert await opened.store.write(command) == [None]


async def compare(opened: Opened, model: Model) -> None:
    await is_sound(opened)
    told: dict[str, dict[str, dict[str, Any]]] = {}
    rows: dict[str, set[int]] = {}
    for change in await whole_log(opened):
        data = json.loads(change.data)
        key = change.library_id or ""
        match change.type:
            case "library.created":
                told[key], rows[key] = {}, set()
            case "library.deleted":
                assert data["documents"] == len(told.pop(key))
                assert data["chunks"] == len(rows.pop(key))
            case "document.deleted":
                old = told[key].pop(data["document_id"])
                old.pop("status", None)
                assert old == data
            case "document.embedded":
                old = told[key][data["document_id"]]
                assert old.pop("status") == "pending_embedding"
                assert old == data
                assert change.added.count == change.removed.count == data["num_chunks"]
            case _:
                before = told[key].get(data["document_id"])
                assert (change.type == "document.added") == (before is None)
                assert data["version"] == (before["version"] + 1 if before else 1)
                if data.pop("chunks_kept", False):
                    assert before is not None
                    assert data["num_chunks"] == before["num_chunks"]
                elif before is not None:
                    assert data.pop("previous_num_chunks") == before["num_chunks"]
                told[key][data["document_id"]] = data
        if change.type.startswith("document"):
            removed = range(change.removed.first, change.removed.first + change.removed.count)
            assert rows[key] >= set(removed)
            rows[key] -= set(removed)
            rows[key] |= set(range(change.added.first, change.added.first + change.added.count))

    libraries = await opened.store.read(lambda r: r.libraries(after=0, limit=10))
    assert {library.name for library in libraries} == set(model)
    assert {library.id for library in libraries} == set(told)
    for library in libraries:
        expected, number = model[library.name], library.number
        assert {
            id: (d["version"], d["title"], d["metadata"], d["num_chunks"])
            for id, d in told[library.id].items()
        } == {id: (d.version, d.title, d.metadata, len(d.bodies)) for id, d in expected.items()}
        documents = await opened.store.read(documents_after(number, 0, limit=99))
        chunks = await opened.store.read(chunks_of(documents))
        waiting = {id for id, data in told[library.id].items() if "status" in data}
        assert waiting == {id for id, document in expected.items() if document.pending}
        assert library.pending == len(waiting)
        assert {
            d.id: Expected(
                d.version,
                d.title,
                json.loads(d.metadata),
                tuple(c.text or "" for c in own),
                d.pending is not None,
            )
            for d, own in zip(documents, chunks, strict=True)
        } == expected
        for document, own in zip(documents, chunks, strict=True):
            for chunk in own:
                if chunk.vector is None:
                    assert document.pending is not None
                    assert chunk.text in tuple(LACKING)
                else:
                    assert chunk.vector.tolist() == vector(chunk.text or "").tolist()
        stored = {
            row for d in documents for row in range(d.chunks.first, d.chunks.first + d.chunks.count)
        }
        assert stored == rows[library.id]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "headwater.db"
    prepare(path, StoreSettings(), SystemClock())
    return path


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(groups=story)
def test_every_state_is_derivable_from_the_log(
    template: Path, groups: list[list[tuple[Any, ...]]]
) -> None:
    async def live(folder: Path) -> None:
        backend = SqliteBackend(folder)
        async with backend.open() as opened:
            model = await tell(opened, groups)
            await compare(opened, model)
        async with backend.open() as opened:
            await compare(opened, model)

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(template, folder)
        anyio.run(live, Path(folder))
