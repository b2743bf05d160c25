"""Cancelling jobs over real sockets: whatever they do, wherever they run, they stop at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from jobs.types import declare
from jobs.workers import WorkerProcess
from server.client import Client, Json, answer, ndjson
from server.running import Server

WITHIN_S = 1.0
"""What is promised of a cancel, from the request to the event that says it is done."""

COUNT = 20_000


@pytest.fixture(scope="module", params=["in the server", "in a worker process"])
def working(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose jobs run where the parameter says."""
    folder = tmp_path_factory.mktemp("cancelling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", declare(folder / "packages"))
        if request.param == "in the server":
            with Server(folder / "data", jobs__size=1) as server:
                yield server
            return
        with (
            Server(folder / "data", jobs__size=0) as server,
            WorkerProcess(server.data, jobs__size=1) as worker,
        ):
            worker.wait_running()
            yield server


@pytest.fixture
def caller(working: Server) -> Iterator[Client]:
    with Client(working.url) as client:
        yield client


@pytest.fixture(scope="module")
def filled(working: Server) -> str:
    """A library that no job is done with in a moment."""
    with Client(working.url) as client:
        library: str = client.create_library()["id"]
        client.stream(library, documents("d"), response="summary")
        return library


def documents(prefix: str) -> list[Json]:
    return [
        {"id": f"{prefix}{number}", "text": f"text number {number}", "metadata": {"n": number}}
        for number in range(COUNT)
    ]


def submit(client: Client, type: str, library: str | None = None, **params: Any) -> str:
    body: Json = {"type": type, "library": library, "params": params, "max_attempts": 1}
    id: str = answer(client.http.post("/v1/jobs", json=body))["job_id"]
    return id


def cancelled(client: Client, id: str, *, once: str) -> Json:
    """Cancel the job as soon as `once` was heard of it; the job afterwards. Asserts the promise."""
    with client.events(types="job.*", after="beginning") as events:
        while True:
            (event,) = events.take(1)
            if event["data"]["job_id"] != id:
                continue
            if event["type"] == once:
                break
        asked_s = time.monotonic()
        response = client.http.post(f"/v1/jobs/{id}/cancel")
        assert response.status_code == (200 if once == "job.queued" else 202), response.text
        while True:
            (event,) = events.take(1)
            if event["data"]["job_id"] == id and event["type"] != "job.progress":
                break
        took_s = time.monotonic() - asked_s
    assert event["type"] == "job.cancelled", event
    assert took_s < WITHIN_S
    job = answer(client.http.get(f"/v1/jobs/{id}"))
    assert (job["status"], job["cancel_requested"]) == ("cancelled", False)
    return job


@pytest.mark.parametrize("type", ["wait", "block"])
def test_running_job_is_cancelled_within_a_second(caller: Client, type: str) -> None:
    assert cancelled(caller, submit(caller, type), once="job.progress")["attempt"] == 1


def test_queued_job_is_cancelled_within_a_second_and_never_runs(caller: Client) -> None:
    ahead = submit(caller, "wait")
    behind = submit(caller, "nothing")
    job = cancelled(caller, behind, once="job.queued")
    assert (job["attempt"], job["worker"], job["started_at"]) == (0, None, None)
    cancelled(caller, ahead, once="job.progress")


@pytest.mark.parametrize(
    ("type", "params"),
    [
        ("batch_export", {"include": ["vectors"]}),
        ("batch_export", {"format": "csv", "include": ["vectors"], "compression": "gzip"}),
        ("regenerate_embeddings", {}),
        ("batch_delete", {"filter": {}}),
    ],
)
def test_long_work_is_cancelled_within_a_second(
    working: Server, caller: Client, filled: str, type: str, params: Json
) -> None:
    """The last of them is the one that takes documents away."""
    id = submit(caller, type, filled, **params)
    job = cancelled(caller, id, once="job.started")
    assert job["result"] is None
    folder = working.data / "jobs" / id
    assert not folder.exists() or list(folder.iterdir()) == []
    library = answer(caller.http.get(f"/v1/libraries/{filled}"))
    if type == "batch_delete":
        assert library["documents"] > 0
    else:
        assert library["documents"] == COUNT
        assert caller.all_events(library_id=filled, types="library.regenerated") == []
        assert caller.search(filled, "text number 7", k=1)["results"][0]["text"] == "text number 7"


def test_import_is_cancelled_within_a_second(caller: Client) -> None:
    library = caller.create_library()["id"]
    response = caller.http.post(
        "/v1/jobs/batch-import",
        content=ndjson(documents("i")),
        params={"library": library},
        headers={"content-type": "application/x-ndjson"},
    )
    cancelled(caller, answer(response)["job_id"], once="job.started")
    there = answer(caller.http.get(f"/v1/libraries/{library}"))["documents"]
    assert there < COUNT
    told = [event["type"] for event in caller.all_events(library_id=library, types="batch.*")]
    assert told in ([], ["batch.started", "batch.failed"])
