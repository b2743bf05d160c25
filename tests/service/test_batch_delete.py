"""Deletes as jobs: each document goes once, and none that should stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service.job_house import Fault, JobHouse, job_house, unit
from store.backend import draft

from headwater.errors import InvalidJob
from headwater.model import Library
from headwater.service.job_types import batch_delete
from headwater.service.job_types.batch_delete import BatchDelete
from headwater.store.base import DeleteDocument, DeleteDocuments, PatchDocument, PutDocuments
from headwater.store.library_commands import DeleteLibrary

pytestmark = pytest.mark.anyio


def handler_of(home: JobHouse) -> BatchDelete:
    return BatchDelete(home.parts.log, home.parts.libraries)


def document(number: int) -> dict[str, Any]:
    return {
        "id": f"d{number}",
        "chunks": [{"vector": unit(number, 3)}],
        "metadata": {"even": number % 2 == 0},
    }


async def filled(home: JobHouse, name: str, count: int = 60) -> Library:
    library = await home.library(name)
    await home.put(library, *map(document, range(count)))
    return library


@pytest.mark.parametrize(
    "params",
    [
        {"filter": {"even": True}},
        {"filter": {}},
        {"ids": [f"d{number}" for number in range(0, 60, 2)] + ["none", "d2"]},
    ],
)
async def test_delete_cut_off_at_every_write_takes_each_once(
    tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_delete, "_FOUND", 7)
    monkeypatch.setattr(batch_delete, "_NAMED", 7)
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        gone = 60 if params.get("filter") == {} else 30
        for after in (False, True):
            for nth in range(1 + after, 8, 2):
                library = await filled(home, f"cut-{after}-{nth}")
                job = await home.submit(handler, params, library)
                done = await home.finish(
                    handler,
                    job,
                    lambda attempt, n=nth, a=after: Fault(n, a) if attempt == 0 else None,  # type: ignore[misc]
                )
                assert done.status == "completed"
                result = done.result or {}
                assert result["deleted"] == gone
                assert result.get("not_found_ids", ["none"]) == ["none"]
                assert len(await home.documents(library)) == 60 - gone
                told = await home.events(library, "document.deleted")
                assert len(told) == gone


async def test_what_comes_after_the_job_began_stays(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home, "books", 20)
        job = await home.submit(handler, {"filter": {}}, library)
        job = await home.run(handler, job, Fault(1, after=True))
        await home.put(library, document(100), document(3) | {"metadata": {"new": 1}})
        done = await home.run(handler, job)
        assert (done.result or {})["deleted"] == 20
        assert set(await home.documents(library)) == {"d100"}


@pytest.mark.parametrize("params", [{"filter": {}}, {"ids": ["d1"]}])
async def test_library_that_is_deleted_before_the_first_look_fails_the_job(
    tmp_path: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home, "books", 4)
        libraries = home.parts.libraries
        fresh = libraries.fresh

        async def fresh_then_deleted(ref: str) -> Library:
            found = await fresh(ref)
            await home.parts.log.store.write(DeleteLibrary(library.number))
            return found

        monkeypatch.setattr(libraries, "fresh", fresh_then_deleted)
        handler = handler_of(home)
        done = await home.run(handler, await home.submit(handler, params, library))
        assert done.status == "failed"
        assert (done.error or {})["code"] == "library_not_found"


async def test_a_document_that_is_changed_before_every_write_has_its_outcome_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home, "books", 8)
        number, write = library.number, home.parts.log.store.write
        left: list[Any] = [
            PatchDocument(number, "d2", title="still even"),
            PatchDocument(number, "d4", metadata={"even": False}),
            DeleteDocument(number, "d6"),
            PutDocuments(number, [draft("d6", "new")], np.ones((1, 3), np.float32)),
        ]

        async def others_first(command: Any) -> Any:
            if any(isinstance(one, DeleteDocuments) for one in getattr(command, "commands", ())):
                for change in left:
                    await write(change)
                left[:] = [PatchDocument(number, "d2", title=f"{time.monotonic()}")]
            return await write(command)

        monkeypatch.setattr(home.parts.log.store, "write", others_first)
        job = await home.submit(handler, {"filter": {"even": {"$ne": False}}}, library)
        done = await home.run(handler, job)
        result = done.result or {}
        assert (result["deleted"], result["spared"]) == (2, 2)
        # The last of them was put when the job had begun.
        assert set(await home.documents(library)) == {"d1", "d3", "d4", "d5", "d6", "d7"}


async def test_named_documents_that_are_not_there_are_told(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await filled(home, "books", 4)
        ids = [*(f"none-{n:03}" for n in range(150)), "d1", "d9"]
        job = await home.submit(handler, {"ids": ids}, library)
        result = (await home.run(handler, job)).result or {}
        assert (result["deleted"], result["not_found"]) == (1, 151)
        assert result["not_found_ids"] == ids[:100]


async def test_an_error_that_is_no_documents_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(id: str) -> str:
        raise ZeroDivisionError(id)

    monkeypatch.setattr(batch_delete, "check_id", broken)
    async with job_house(tmp_path) as home:
        with pytest.raises(ZeroDivisionError):
            await handler_of(home).check({"ids": ["a"]}, None)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "params"),
    ({"filter": {}, "ids": []}, "params"),
    ({"filter": {"a": {"$no": 1}}}, "params.filter"),
    ({"ids": ["a", ""]}, "params.ids[1]"),
    ({"ids": ["a"] * 10_001}, "params.ids"),
    ({"ids": [1]}, "params.ids[0]"),
]


async def test_wrong_parameter_is_named_by_its_place(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        for params, path in WRONG:
            with pytest.raises(InvalidJob) as caught:
                await handler_of(home).check(params, None)
            assert caught.value.fields["path"] == path, params
