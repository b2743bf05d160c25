"""Whoever does a job dies by kill -9, again and again, at moments left to chance.

Each job completes once, and what it leaves behind is what the same job leaves that nobody disturbs.
What `test_job_crash.py` does at named places this does at all the others.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import invariants
import pytest
from jobs.workers import WorkerProcess
from server.client import Client, Json, answer, ndjson
from server.running import Server, eventually
from server.test_job_files import ENDED, ended, post, send

Serve = Callable[..., Server]
Kill = Callable[[], None]
Start = Callable[[], Kill]

COUNT = 9_000
DEATHS = 4
SETTINGS: dict[str, Any] = {
    "ingest__group_lines": 50,
    "search__seal_rows": 256,
    "search__exact_rows": 0,
    "search__settle": 0.1,
    "jobs__max_attempts": 50,
    "jobs__reap_every": 0.1,
    "jobs__poll": 0.1,
}


def documents() -> list[Json]:
    """Every seventh without an id."""
    made: list[Json] = [
        {
            "id": f"d{number}",
            "chunks": [
                {
                    "text": f"text {number} of shelf {number % 97}",
                    "vector": [1.0, number % 97 / 97, number / COUNT],
                }
            ],
            "metadata": {"number": number},
        }
        for number in range(COUNT)
    ]
    for document in made[::7]:
        del document["id"]
    return made


def library_of(client: Client, *, filled: bool = True) -> str:
    library: str = client.create_library(embedder="none", dimension=3)["id"]
    if filled:
        (summary,) = client.stream(library, documents(), response="summary")
        assert summary["created"] == COUNT
    return library


def content(client: Client, library: str) -> dict[int, Json]:
    """What a library holds, by number, without what differs from one library to the next."""
    return {
        one["metadata"]["number"]: {
            "id": one["id"] if one["metadata"]["number"] % 7 else "made by the server",
            "version": one["version"],
            "chunks": [(chunk["text"], chunk["vector"]) for chunk in one["chunks"]],
        }
        for one in client.documents(library, include="chunks,vectors").values()
    }


def told(client: Client, library: str) -> Counter[str]:
    """What the log says of a library, beside how its jobs went and what an index does by itself."""
    counts = Counter(event["type"] for event in client.all_events(library_id=library))
    return Counter(
        {
            type: count
            for type, count in counts.items()
            if not type.startswith("job.") and type != "index.optimized"
        }
    )


def starts(client: Client, job: Json) -> int:
    """How often somebody has begun it. Attempts do not count the deaths of those who got on."""
    events = client.all_events(types="job.started", after=job["cursor"])
    return sum(event["data"]["job_id"] == job["job_id"] for event in events)


def taken(client: Client, job: Json, times: int) -> bool:
    """Wait until somebody has begun it so many times; False when it has ended instead."""

    def comes() -> bool:
        return over(client, job) or starts(client, job) >= times

    eventually(comes, f"start {times} of {job}")
    return not over(client, job)


def over(client: Client, job: Json) -> bool:
    return answer(client.http.get(f"/v1/jobs/{job['job_id']}"))["status"] in ENDED


def through_deaths(client: Client, job: Json, start: Start, ran_ms: float) -> Json:
    """The job once it has ended. `ran_ms` is how long it takes when nobody disturbs it."""
    seed = random.randrange(1_000_000)
    dice = random.Random(seed)
    for times in range(1, DEATHS + 1):
        kill = start()
        if not taken(client, job, times):
            break
        time.sleep(
            2 / DEATHS * dice.random() * ran_ms / 1000
        )  # the moment of death is left to chance
        kill()
    else:
        start()
    done = ended(client, job)
    print(
        f"{done['type']}: seed {seed}, begun {starts(client, job)} times, undisturbed {ran_ms} ms"
    )
    assert done["status"] == "completed", done
    ends = client.all_events(types="job.completed,job.failed,job.cancelled", after=job["cursor"])
    assert sum(event["data"]["job_id"] == job["job_id"] for event in ends) == 1
    assert answer(client.http.get("/v1/jobs", params={"status": "running"}))["jobs"] == []
    return done


class House:
    """A server that runs no jobs, and workers beside it, started one after the other."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.data = server.data
        self._stack = stack

    def start(self) -> Kill:
        worker = self._stack.enter_context(WorkerProcess(self.data, **SETTINGS | {"jobs__size": 1}))
        return worker.kill

    def undisturbed(self, client: Client, job: Json) -> Json:
        kill = self.start()
        done = ended(client, job)
        assert done["status"] == "completed", done
        kill()
        return done


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(**SETTINGS | {"jobs__size": 0})


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def house(server: Server) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(server, stack)


def test_import_through_deaths_is_as_if_undisturbed(client: Client, house: House) -> None:
    def job(library: str) -> Json:
        return send(client, library, ndjson(documents()), "application/x-ndjson")

    calm, harried = library_of(client, filled=False), library_of(client, filled=False)
    usual = house.undisturbed(client, job(calm))
    done = through_deaths(client, job(harried), house.start, usual["ran_ms"])
    counts = ("received", "created", "updated", "unchanged", "failed")
    assert [done["result"][name] for name in counts] == [COUNT, COUNT, 0, 0, 0]
    assert content(client, harried) == content(client, calm)
    assert told(client, harried) == told(client, calm)
    invariants.log_tells_what_is_there(client, harried)
    invariants.every_document_is_found(client, harried, {"vector": [1, 1, 1]})


def test_export_through_deaths_is_as_if_undisturbed(client: Client, house: House) -> None:
    def job() -> Json:
        return post(client, "batch-export", library=library, include=["chunks", "vectors"])

    def body(done: Json) -> bytes:
        return client.http.get(done["result"]["download"]).content

    library = library_of(client)
    usual = house.undisturbed(client, job())
    before = told(client, library)
    made = job()
    done = through_deaths(client, made, house.start, usual["ran_ms"])
    assert body(done) == body(usual)
    assert done["result"]["sha256"] == usual["result"]["sha256"]
    assert told(client, library) == before
    folder = house.data / "jobs" / made["job_id"]
    assert [path.name for path in folder.iterdir()] == ["export.ndjson"]


def test_regeneration_through_deaths_is_as_if_undisturbed(client: Client, house: House) -> None:
    def job(library: str) -> Json:
        return post(client, "regenerate-embeddings", library=library, embedder="static")

    calm, harried = library_of(client), library_of(client)
    usual = house.undisturbed(client, job(calm))
    done = through_deaths(client, job(harried), house.start, usual["ran_ms"])
    assert done["result"]["chunks"] == COUNT
    assert content(client, harried) == content(client, calm)
    assert told(client, harried) == told(client, calm)
    assert told(client, harried)["library.regenerated"] == 1
    invariants.log_tells_what_is_there(client, harried)
    invariants.every_document_is_found(client, harried, {"query": "text"} | {"mode": "vector"})


def test_rebuild_through_deaths_is_as_if_undisturbed(serve: Serve) -> None:
    """Only who has views makes them anew: here the server itself dies."""
    server = serve(**SETTINGS)
    with Client(server.url) as client:
        library = library_of(client)
        probe = {"vector": [1, 0.5, 0.5], "k": 50, "exact": True}
        found = answer(client.http.post(f"/v1/libraries/{library}/search", json=probe))["results"]
        usual = ended(client, post(client, "index-rebuild", library=library))
        assert usual["status"] == "completed", usual
        before = content(client, library)
        calm = told(client, library)

        def start() -> Kill:
            if not server.running:
                server.start()
            return server.kill

        job = post(client, "index-rebuild", library=library)
        done = through_deaths(client, job, start, usual["ran_ms"])
        assert done["result"]["chunks"] == usual["result"]["chunks"] == COUNT
        again = answer(client.http.post(f"/v1/libraries/{library}/search", json=probe))["results"]
        assert again == found
        assert content(client, library) == before
        assert told(client, library)["index.rebuilding"] == calm["index.rebuilding"] + 1
        rebuilt = client.all_events(library_id=library, types="index.rebuilt")
        assert sum(one["data"].get("job_id") == job["job_id"] for one in rebuilt) == 1
        invariants.log_tells_what_is_there(client, library)
        invariants.every_document_is_found(client, library, {"vector": [1, 1, 1]})
