"""A library that is deleted while a job works on it: the job ends and says so, nothing stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from server.client import Client, Json, answer, ndjson
from server.running import Server, eventually

Submit = Callable[[Client, str], str]

COUNT = 10_000
TRIES = 5
ENDS = ("library.deleted", "job.completed", "job.failed", "job.cancelled")
DONE_BEFORE = ["job.completed", "library.deleted"]
OF_LIBRARY = ("documents", "chunks", "pending", "next_vectors", "regenerations")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("gone") / "data"
    with Server(data, jobs__progress_every=0.02, ingest__group_lines=16) as running:
        yield running


@pytest.fixture
def caller(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def documents() -> bytes:
    return ndjson({"id": f"d{number}", "text": f"text number {number}"} for number in range(COUNT))


def left(server: Server) -> dict[str, int]:
    """How many rows of deleted libraries there are, by table."""
    with closing(sqlite3.connect(server.data / "headwater.db")) as db:
        gone = "library NOT IN (SELECT number FROM libraries WHERE deleted_us IS NULL)"
        counts = {
            table: db.execute(f"SELECT count(*) FROM {table} WHERE {gone}").fetchone()[0]
            for table in OF_LIBRARY
        }
        deleted = "SELECT count(*) FROM libraries WHERE deleted_us IS NOT NULL"
        return counts | {"libraries": db.execute(deleted).fetchone()[0]}


def deleted_under(
    server: Server, client: Client, submit: Submit, *, progressed: bool = False
) -> tuple[str, str]:
    """Delete a library once its job runs, or has `progressed`; the library and the job.

    A job that was done before it went is no case of it: then another is tried.
    """
    for _ in range(TRIES):
        library = client.create_library()["id"]
        id = submit(client, library)
        if (ends := ends_of_both(client, library, progressed)) != DONE_BEFORE:
            break
    assert ends == ["library.deleted", "job.failed"]
    job = answer(client.http.get(f"/v1/jobs/{id}"))
    assert (job["status"], job["error"]["code"]) == ("failed", "library_not_found")
    assert job["error"]["retryable"] is False
    assert (job["attempt"], job["result"]) == (1, None)
    eventually(lambda: not any(left(server).values()), "the library's rows to be gone")
    return library, id


def ends_of_both(client: Client, library: str, progressed: bool) -> list[str]:
    """Delete the library once its only job runs; how it and the job ended, in that order."""
    ends: list[str] = []
    types = "job.*,library.deleted"
    with client.events(types=types, after="beginning", library_id=library) as events:

        def hear() -> Json:
            (event,) = events.take(1)
            if event["type"] in ENDS:
                ends.append(event["type"])
            return event

        while (event := hear())["type"] != "job.started":
            pass
        while progressed and not ends and not event["data"].get("progress", {}).get("current"):
            event = hear()
        answer(client.http.delete(f"/v1/libraries/{library}"))
        while len(ends) < 2:
            hear()
    return ends


def filled_and_asked(client: Client, library: str, *, type: str, params: dict[str, Any]) -> str:
    """The id of a job of that type on a library that has many documents."""
    client.stream_raw(library, documents(), response="summary")
    body = {"type": type, "library": library, "params": params}
    id: str = answer(client.http.post("/v1/jobs", json=body))["job_id"]
    return id


def sent(client: Client, library: str, file: bytes) -> str:
    """The id of a job that imports a file that is sent with it."""
    response = client.http.post(
        "/v1/jobs/batch-import",
        content=file,
        params={"library": library},
        headers={"content-type": "application/x-ndjson"},
    )
    id: str = answer(response)["job_id"]
    return id


def files_of(server: Server, id: str) -> set[str]:
    folder = server.data / "jobs" / id
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize(
    ("type", "params"),
    [
        ("batch_export", {"include": ["vectors"]}),
        ("batch_export", {"format": "parquet", "include": ["vectors"]}),
        ("batch_delete", {"filter": {}}),
        ("regenerate_embeddings", {}),
        ("index_rebuild", {}),
    ],
)
def test_job_of_a_deleted_library_fails_and_leaves_nothing(
    server: Server, caller: Client, type: str, params: dict[str, Any]
) -> None:
    submit = partial(filled_and_asked, type=type, params=params)
    _, id = deleted_under(server, caller, submit)
    assert files_of(server, id) == set()


def test_regeneration_that_has_made_vectors_leaves_none(server: Server, caller: Client) -> None:
    submit = partial(filled_and_asked, type="regenerate_embeddings", params={})
    deleted_under(server, caller, submit, progressed=True)


def test_import_into_a_deleted_library_ends_its_batch_and_drops_its_file(
    server: Server, caller: Client
) -> None:
    def submit(client: Client, library: str) -> str:
        return sent(client, library, documents())

    library, id = deleted_under(server, caller, submit, progressed=True)
    assert files_of(server, id) == set()
    told = caller.all_events(library_id=library, types="batch.*,library.deleted")
    assert [event["type"] for event in told] == [
        "batch.started",
        "library.deleted",
        "batch.failed",
    ]


def test_file_that_was_sent_goes_once_it_is_imported(server: Server, caller: Client) -> None:
    library = caller.create_library()["id"]
    id = sent(caller, library, b'{"id":"a","text":"one"}\nno json\n')
    with caller.events(types="job.completed", after="beginning", library_id=library) as events:
        events.take(1)
    assert files_of(server, id) == {"errors.ndjson"}
