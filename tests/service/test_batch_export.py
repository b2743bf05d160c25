"""Exports as jobs: whole files of one moment, that an import takes back as it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from service.job_house import Fault, JobHouse, job_house, unit

from headwater.errors import InvalidJob
from headwater.model import Job, Library
from headwater.service.inbox import Inbox
from headwater.service.job_types.batch_export import BatchExport
from headwater.service.job_types.batch_import import BatchImport
from headwater.store.library_commands import DeleteLibrary

pytestmark = pytest.mark.anyio

FORMATS: list[dict[str, Any]] = [
    {"format": "ndjson"},
    {"format": "ndjson", "compression": "gzip"},
    {"format": "csv"},
    {"format": "csv", "compression": "zstd"},
    {"format": "parquet"},
]


def handler_of(home: JobHouse) -> BatchExport:
    parts = home.parts
    return BatchExport(
        parts.log, parts.libraries, home.clock, parts.settings.transfer, parts.settings.store
    )


def documents(count: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for number in range(count):
        document: dict[str, Any] = {
            "id": f"d{number}",
            "metadata": {"n": number, "odd": number % 2},
        }
        if number % 3 == 0:
            document |= {"text": f'text "{number}", of\r\nsome lines. ' * (1 + number % 40)}
        elif number % 3 == 1:
            document |= {"title": f"Title {number}", "texts": ["one", f"two {number}"]}
        else:
            document["chunks"] = [
                {"text": "said", "vector": unit(number, 256), "metadata": {"page": number}},
                {"vector": unit(-number + 1000, 256)},
            ]
        made.append(document)
    return made


async def filled(home: JobHouse, count: int = 50) -> Library:
    library = await home.library("books", embedder="static", chunk_size=100)
    await home.put(library, *documents(count))
    return library


def file_of(home: JobHouse, job: Job) -> Path:
    (file,) = home.folder(job).iterdir()
    return file


@pytest.mark.parametrize("params", FORMATS)
@pytest.mark.parametrize("include", [[], ["chunks"], ["vectors"]])
async def test_what_was_exported_is_imported_again(
    tmp_path: Path, params: dict[str, Any], include: list[str]
) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home)
        job = await home.submit(handler_of(home), params | {"include": include}, library)
        done = await home.run(handler_of(home), job)
        assert done.status == "completed", done.error
        assert done.result is not None
        body = file_of(home, done).read_bytes()
        assert done.result["documents"] == 50
        assert done.result["bytes"] == len(body)
        assert done.result["sha256"] == hashlib.sha256(body).hexdigest()

        importer = BatchImport(
            home.parts.libraries,
            home.parts.ingest,
            Inbox(home.folder(done)),
            home.parts.settings.transfer,
        )
        copy = await home.library("copy", embedder="static", chunk_size=100)
        back = await home.run(
            importer, await home.submit(importer, {"path": file_of(home, done).name}, copy)
        )
        assert (back.result or {})["failed"] == (0 if include == ["vectors"] else 16), back.result
        original, again = await home.documents(library), await home.documents(copy)
        if include == ["vectors"]:
            assert again == original
        else:
            assert {id: one[1:4] for id, one in again.items() if int(id[1:]) % 3 != 2} == {
                id: one[1:4] for id, one in original.items() if int(id[1:]) % 3 != 2
            }


async def test_file_stands_for_one_moment_whatever_is_written_meanwhile(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home)
        handler = handler_of(home)
        job = await home.submit(handler, {"format": "ndjson", "include": ["vectors"]}, library)
        job = await home.run(handler, job, Fault(1))  # written, and not yet said
        await home.put(library, *documents(60)[50:])
        done = await home.run(handler, job)
        assert (done.result or {})["documents"] == 60
        assert len(file_of(home, done).read_text().splitlines()) == 60


async def test_finished_file_is_not_made_again(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home, 10)
        handler = handler_of(home)
        job = await home.run(handler, await home.submit(handler, {}, library), Fault(1, after=True))
        before = file_of(home, job).stat().st_mtime_ns
        done = await home.run(handler, job)
        assert done.status == "completed"
        assert file_of(home, done).stat().st_mtime_ns == before


async def test_filter_chooses_and_an_empty_library_is_an_empty_file(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home)
        handler = handler_of(home)
        job = await home.submit(handler, {"filter": {"odd": 1}}, library)
        assert ((await home.run(handler, job)).result or {})["documents"] == 25
        empty = await home.library("empty")
        for params in FORMATS:
            done = await home.run(handler, await home.submit(handler, params, empty))
            assert (done.status, (done.result or {})["documents"]) == ("completed", 0)


async def test_deleted_library_leaves_no_file(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home, 5)
        handler = handler_of(home)
        job = await home.submit(handler, {}, library)
        await home.parts.log.store.write(DeleteLibrary(library.number))
        done = await home.run(handler, job)
        assert (done.status, (done.error or {})["code"]) == ("failed", "library_not_found")
        assert not home.folder(job).exists() or not list(home.folder(job).iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
async def test_full_disk_leaves_no_file_and_is_tried_again(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        library = await filled(home, 10)
        handler = handler_of(home)
        job = await home.submit(handler, {}, library)
        home.folder(job).mkdir(parents=True)
        (home.folder(job) / "unfinished.ndjson").symlink_to("/dev/full")
        done = await home.run(handler, job)
        assert (done.error or {})["code"] == "disk_full"
        assert list(home.folder(job).iterdir()) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"format": "xml"}, "params.format"),
    ({"include": ["texts"]}, "params.include[0]"),
    ({"format": "parquet", "compression": "gzip"}, "params.compression"),
    ({"filter": {"a": {"$no": 1}}}, "params.filter"),
]


async def test_wrong_parameter_is_named_by_its_place(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        for params, path in WRONG:
            with pytest.raises(InvalidJob) as caught:
                await handler_of(home).check(params, None)
            assert caught.value.fields["path"] == path, params
