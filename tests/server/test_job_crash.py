"""kill -9 in the middle of jobs: each completes once, and has done what it would have done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import invariants
import pytest
from jobs.workers import WorkerProcess
from server.client import Client, Json, answer, ndjson
from server.running import Server
from server.test_job_files import ended, post, send

Serve = Callable[..., Server]

TINY: dict[str, Any] = {
    "ingest__group_lines": 20,
    "search__seal_rows": 64,
    "search__exact_rows": 0,
    "search__settle": 0.1,
    "jobs__max_attempts": 20,
}
COUNT = 600
NDJSON = "application/x-ndjson"


def documents(count: int = COUNT) -> bytes:
    """Every tenth without an id, every fiftieth bad."""
    lines = []
    for number in range(count):
        if number % 50 == 49:
            lines.append(b"no json\n")
            continue
        document: Json = {
            "chunks": [{"vector": [1, number % 97, number // 97], "text": f"text of {number}"}],
            "metadata": {"number": number},
        }
        if number % 10:
            document["id"] = f"d{number}"
        lines.append(ndjson([document]))
    return b"".join(lines)


def imported_once(client: Client, library: str, job: Json) -> None:
    done = ended(client, job)
    assert done["status"] == "completed", done
    bad = COUNT // 50
    assert (
        done["result"]
        | {
            "received": COUNT,
            "created": COUNT - bad,
            "updated": 0,
            "unchanged": 0,
            "failed": bad,
        }
        == done["result"]
    )
    held = client.documents(library, include="vectors")
    assert sorted(one["metadata"]["number"] for one in held.values()) == [
        number for number in range(COUNT) if number % 50 != 49
    ]
    assert all(one["version"] == 1 for one in held.values())
    errors = client.http.get(f"/v1/jobs/{job['job_id']}/errors").text.splitlines()
    assert [json.loads(line)["line"] for line in errors] == list(range(50, COUNT + 1, 50))
    told = [event["type"] for event in client.all_events(library_id=library, types="batch.*")]
    assert told == ["batch.started", "batch.completed"]
    invariants.log_tells_what_is_there(client, library)
    invariants.every_document_is_found(client, library, {"vector": [1, 1, 1]})


@pytest.mark.parametrize(
    "place", ["import.before_group:9", "import.after_group:9", "import.before_end"]
)
def test_import_killed_at_a_place_completes_once(serve: Serve, place: str) -> None:
    server = serve(failpoints=place, **TINY)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=3)["id"]
        job = send(client, library, documents(), NDJSON)
        server.wait_killed()
        server.start()
        imported_once(client, library, job)


def test_worker_killed_in_the_middle_of_jobs_leaves_them_to_another(serve: Serve) -> None:
    """The server runs no jobs here; its views hear of what the workers write."""
    server = serve(**TINY | {"jobs__size": 0})
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=3)["id"]
        job = send(client, library, documents(), NDJSON)
        settings = TINY | {"jobs__size": 2}
        with WorkerProcess(server.data, failpoints="import.after_group:9", **settings) as first:
            assert first.process is not None
            first.process.wait(60)
            with WorkerProcess(server.data, **settings) as second:
                imported_once(client, library, job)
                done = ended(client, post(client, "batch-export", library=library))
                assert len(client.http.get(done["result"]["download"]).text.splitlines()) == (
                    COUNT - COUNT // 50
                )
                made = post(client, "regenerate-embeddings", library=library, embedder="static")
                assert ended(client, made)["status"] == "completed"
                hit = client.search(library, "text of 77", mode="vector", k=1)["results"][0]
                assert (hit["text"], round(hit["score"], 3)) == ("text of 77", 1.0)
                assert second.stop() == 0


def test_import_killed_again_and_again_completes_once(serve: Serve) -> None:
    dice = random.Random(3)
    server = serve(**TINY)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=3)["id"]
        job = send(client, library, documents(), NDJSON)
        for _ in range(3):
            time.sleep(dice.random() * 0.15)  # the moment of death is left to chance
            server.kill()
            server.start()
        imported_once(client, library, job)


def filled(client: Client) -> str:
    library: str = client.create_library(embedder="none", dimension=3)["id"]
    client.stream_raw(library, documents(), response="summary")
    return library


def test_delete_killed_between_pieces_deletes_each_once(serve: Serve) -> None:
    server = serve(failpoints="delete.after_piece:2", **TINY)
    with Client(server.url) as client:
        library = filled(client)
        job = post(client, "batch-delete", library=library, filter={"number": {"$gte": 30}})
        server.wait_killed()
        server.start()
        done = ended(client, job)
        gone = sum(number % 50 != 49 for number in range(30, COUNT))
        assert (done["status"], done["result"]["deleted"]) == ("completed", gone)
        told = client.all_events(library_id=library, types="document.deleted")
        assert len(told) == len({event["data"]["document_id"] for event in told}) == gone
        assert len(client.documents(library)) == 30
        invariants.log_tells_what_is_there(client, library)


def test_export_killed_before_its_end_is_whole_afterwards(serve: Serve) -> None:
    server = serve(failpoints="export.before_finish", **TINY)
    with Client(server.url) as client:
        library = filled(client)
        job = post(client, "batch-export", library=library, include=["vectors"])
        server.wait_killed()
        server.start()
        done = ended(client, job)
        body = client.http.get(done["result"]["download"]).content
        assert hashlib.sha256(body).hexdigest() == done["result"]["sha256"]
        assert len(body.splitlines()) == COUNT - COUNT // 50
        assert [path.name for path in (server.data / "jobs" / job["job_id"]).iterdir()] == [
            "export.ndjson"
        ]


def test_rebuild_killed_in_the_middle_is_done_by_the_next_process(serve: Serve) -> None:
    server = serve(failpoints="rebuild.asked", **TINY)
    with Client(server.url) as client:
        library = filled(client)
        invariants.every_document_is_found(client, library, {"vector": [1, 1, 1]})
        with contextlib.suppress(httpx.TransportError):
            job = post(client, "index-rebuild", library=library)
        server.wait_killed()
        server.start()
        (job,) = answer(client.http.get("/v1/jobs", params={"type": "index_rebuild"}))["jobs"]
        done = ended(client, job)
        assert done["status"] == "completed"
        told = [event["type"] for event in client.all_events(library_id=library, types="index.*")]
        assert told.count("index.rebuilding") == 1
        assert done["result"]["chunks"] == COUNT - COUNT // 50
        invariants.every_document_is_found(client, library, {"vector": [1, 1, 1]})


@pytest.mark.parametrize(
    "place", ["regenerate.after_page:2", "regenerate.before_switch", "regenerate.mid_settle"]
)
def test_regeneration_killed_at_a_place_completes_once(serve: Serve, place: str) -> None:
    server = serve(failpoints=place, **TINY)
    with Client(server.url) as client:
        library = filled(client)
        job = post(client, "regenerate-embeddings", library=library, embedder="static")
        server.wait_killed()
        server.start()
        done = ended(client, job)
        assert (done["status"], done["result"]["dimension"]) == ("completed", 256), done
        assert done["result"]["chunks"] == COUNT - COUNT // 50
        held = client.documents(library, include="vectors")
        assert {len(one["chunks"][0]["vector"]) for one in held.values()} == {256}
        hit = client.search(library, "text of 77", mode="vector", k=1)["results"][0]
        assert (hit["text"], round(hit["score"], 3)) == ("text of 77", 1.0)
        told = client.all_events(library_id=library, types="library.regenerated")
        assert len(told) == 1
        invariants.log_tells_what_is_there(client, library)
        invariants.every_document_is_found(client, library, {"vector": [1.0] * 256})
