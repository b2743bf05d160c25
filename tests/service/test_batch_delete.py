"""Deletes as jobs: each document goes once, and none that should stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from service.job_house import Fault, JobHouse, job_house, unit

from headwater.errors import InvalidJob
from headwater.model import Library
from headwater.service.job_types import batch_delete
from headwater.service.job_types.batch_delete import BatchDelete

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
                assert (done.result or {})["deleted"] == gone
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
