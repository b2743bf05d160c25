"""Imports as jobs: whatever cuts them off, each document is in once, and each bad line is told."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from service.job_house import Fault, JobHouse, job_house, unit

from headwater.errors import InvalidJob, PathNotAllowed
from headwater.model import Job, Library
from headwater.service.inbox import Inbox
from headwater.service.job_types.batch_import import ERRORS, BatchImport
from headwater.store.library_commands import DeleteLibrary

pytestmark = pytest.mark.anyio

SMALL = {"ingest": {"group_lines": 7, "linger_ms": 0}}


def handler_of(home: JobHouse, folder: Path | None = None) -> BatchImport:
    parts = home.parts
    return BatchImport(parts.libraries, parts.ingest, Inbox(folder), parts.settings.transfer)


def lines(count: int, *, bad: bool = True) -> bytes:
    """Documents, every fifth without an id, and every ninth line bad in one way or another."""
    wrong = [b"no json", b'{"id":"x"}', b'{"id":"y","chunks":[{"vector":[1]}]}', b'{"what":1}']
    made = []
    for number in range(count):
        if bad and number % 9 == 8:
            made.append(wrong[number // 9 % len(wrong)])
            continue
        document: dict[str, Any] = {
            "chunks": [{"vector": unit(number, 3), "text": f"text {number}"}],
            "metadata": {"number": number},
        }
        if number % 5:
            document["id"] = f"doc-{number % 60}"
        made.append(json.dumps(document).encode())
    return b"\n".join([*made, b""])


async def sent(home: JobHouse, handler: BatchImport, library: Library, body: bytes) -> Job:
    job = await home.submit(handler, {"file": "source.ndjson"}, library)
    home.folder(job).mkdir(parents=True)
    (home.folder(job) / "source.ndjson").write_bytes(body)
    return job


def told(home: JobHouse, job: Job) -> list[dict[str, Any]]:
    """The errors that were kept."""
    body = (home.folder(job) / ERRORS).read_bytes()
    return [json.loads(line) for line in body.splitlines()]


def without_times(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None
    return {name: value for name, value in result.items() if name not in ("cursor", "batch_id")}


async def test_import_cut_off_at_every_write_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    body = lines(100)
    async with job_house(tmp_path, **SMALL) as home:
        handler = handler_of(home)
        whole = await home.library("whole")
        calm = await home.run(handler, await sent(home, handler, whole, body))
        assert calm.status == "completed"
        expected = await home.documents(whole)
        errors = told(home, calm)
        assert [error["line"] for error in errors] == list(range(9, 101, 9))
        by_name = {id for id in expected if id.startswith("doc-")}
        for after in (False, True):
            for nth in range(1 + after, 20, 3):
                library = await home.library(f"cut-{after}-{nth}")
                job = await sent(home, handler, library, body)
                done = await home.finish(
                    handler,
                    job,
                    lambda attempt, n=nth, a=after: Fault(n, a) if attempt == 0 else None,  # type: ignore[misc]
                )
                assert done.status == "completed"
                assert without_times(done.result) == without_times(calm.result)
                documents = await home.documents(library)
                assert {id: documents[id] for id in by_name} == {id: expected[id] for id in by_name}
                assert sorted(map(str, documents.values())) == sorted(map(str, expected.values()))
                again = told(home, done)
                assert [(e["line"], e["error"]["code"]) for e in again] == [
                    (e["line"], e["error"]["code"]) for e in errors
                ]
                batches = [kind for kind, _ in await home.events(library, "batch.")]
                assert batches == ["batch.started", "batch.completed"]


async def test_import_cut_off_again_and_again_ends(tmp_path: Path) -> None:
    rng = random.Random(4)
    async with job_house(tmp_path, **SMALL) as home:
        handler = handler_of(home)
        library = await home.library()
        body = lines(400)
        job = await sent(home, handler, library, body)
        done = await home.finish(
            handler, job, lambda attempt: Fault(rng.randint(1, 4), rng.random() < 0.5)
        )
        assert done.status == "completed"
        other = await home.library("calm")
        calm = await home.run(handler, await sent(home, handler, other, body))
        assert without_times(done.result) == without_times(calm.result)


async def test_documents_of_the_request_are_imported_in_order(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        handler = handler_of(home)
        library = await home.library(embedder="static")
        documents = [{"id": "a", "text": "one"}, {"text": "two"}, {"id": "a", "text": "three"}, {}]
        job = await home.submit(handler, {"documents": documents, "batch_id": "mine"}, library)
        done = await home.run(handler, job)
        result = without_times(done.result)
        assert result == {"received": 4, "created": 2, "updated": 1, "unchanged": 0, "failed": 1}
        held = await home.documents(library)
        assert held["a"][3] == ["three"]
        assert done.result is not None
        assert done.result["batch_id"] == "mine"
        again = await home.submit(handler, {"documents": documents[:1]}, library)
        assert (await home.run(handler, again)).result != done.result


async def test_path_in_the_allowed_folder_is_imported_compressed_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.ndjson.gz").write_bytes(gzip.compress(lines(30, bad=False)))
    (folder / "b.csv").write_text("id,text,year\nx,Hello,1999\n")
    async with job_house(tmp_path) as home:
        handler = handler_of(home, folder)
        library = await home.library()
        done = await home.run(handler, await home.submit(handler, {"path": "a.ndjson.gz"}, library))
        assert without_times(done.result)["created"] == 30
        words = await home.library("words", embedder="static")
        done = await home.run(handler, await home.submit(handler, {"path": "b.csv"}, words))
        assert (await home.documents(words))["x"][2] == b'{"year":"1999"}'


async def test_missing_changed_and_damaged_files_fail_the_job_with_their_code(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    async with job_house(tmp_path, **SMALL) as home:
        handler = handler_of(home, folder)
        library = await home.library()

        async def code(params: dict[str, Any]) -> str:
            done = await home.run(handler, await home.submit(handler, params, library))
            assert done.status == "failed"
            assert done.error is not None
            return str(done.error["code"])

        assert await code({"path": "none.ndjson"}) == "file_not_found"
        assert await code({"file": "source.ndjson"}) == "file_not_found"
        (folder / "link.ndjson").symlink_to(tmp_path / "data" / "headwater.db")
        assert await code({"path": "link.ndjson"}) == "path_not_allowed"
        (folder / "bad.csv").write_text("x,y\n1,2\n")
        assert await code({"path": "bad.csv"}) == "unreadable_file"
        (folder / "bad.parquet").write_bytes(b"nothing of the kind")
        assert await code({"path": "bad.parquet"}) == "unreadable_file"
        assert await home.documents(library) == {}
        (folder / "a.ndjson").write_bytes(lines(100))
        job = await home.submit(handler, {"path": "a.ndjson"}, library)
        job = await home.run(handler, job, Fault(5))
        assert job.status == "queued"
        (folder / "a.ndjson").write_bytes(lines(101))
        done = await home.run(handler, job)
        assert done.error is not None
        assert done.error["code"] == "source_changed"
        batches = [kind for kind, _ in await home.events(library, "batch.")]
        assert batches[-1] == "batch.failed"
        assert batches.count("batch.started") == batches.count("batch.failed")


async def test_library_deleted_in_the_middle_fails_the_job_at_once(tmp_path: Path) -> None:
    async with job_house(tmp_path, **SMALL) as home:
        handler = handler_of(home)
        library = await home.library()
        job = await sent(home, handler, library, lines(100))
        job = await home.run(handler, job, Fault(5))
        await home.parts.log.store.write(DeleteLibrary(library.number))
        done = await home.run(handler, job)
        assert (done.status, (done.error or {})["code"]) == ("failed", "library_not_found")


async def test_too_many_errors_end_the_import(tmp_path: Path) -> None:
    async with job_house(tmp_path, **SMALL) as home:
        handler = handler_of(home)
        library = await home.library()
        job = await home.submit(handler, {"file": "source.ndjson", "max_errors": 3}, library)
        home.folder(job).mkdir(parents=True)
        (home.folder(job) / "source.ndjson").write_bytes(lines(100))
        done = await home.run(handler, job)
        assert done.status == "failed"
        assert "max_errors" in (done.error or {})["detail"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "params"),
    ({"path": "a", "file": "b"}, "params"),
    ({"path": "a.txt"}, "params.format"),
    ({"path": "a.csv", "delimiter": ";;"}, "params.delimiter"),
    ({"path": "a.csv", "encoding": "klingon"}, "params.encoding"),
    ({"path": "a.csv", "columns": {"text": 1}}, "params.columns.text"),
    ({"documents": [1]}, "params.documents[0]"),
    ({"documents": [{}] * 1_001}, "params.documents"),
    ({"path": "a.csv", "max_errors": -1}, "params.max_errors"),
    ({"path": "a.csv", "unknown": 1}, "params"),
]


async def test_wrong_parameter_is_named_by_its_place(tmp_path: Path) -> None:
    async with job_house(tmp_path) as home:
        for params, path in WRONG:
            with pytest.raises(InvalidJob) as caught:
                await handler_of(home, tmp_path).check(params, None)
            assert caught.value.fields["path"] == path, params


async def test_paths_are_refused_at_submission_without_a_folder_or_out_of_it(
    tmp_path: Path,
) -> None:
    async with job_house(tmp_path) as home:
        library = await home.library()
        for handler in (handler_of(home), handler_of(home, tmp_path)):
            with pytest.raises(PathNotAllowed):
                await handler.check({"path": "../a.ndjson"}, library)
