"""Libraries over HTTP: made, listed, changed, deleted, and their names."""

from __future__ import annotations

import threading
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from server.client import Client, answer
from server.conftest import Serve

FIELDS = {
    "id",
    "name",
    "description",
    "embedder",
    "embedder_identity",
    "dimension",
    "metric",
    "chunk_size",
    "chunk_overlap",
    "language",
    "quantization",
    "metadata",
    "version",
    "documents",
    "chunks",
    "pending",
    "created_at",
    "updated_at",
    "cursor",
}


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def test_a_library_is_created_with_its_defaults(client: Client) -> None:
    response = client.http.post("/v1/libraries", json={"name": "made with defaults"})
    assert response.status_code == 201
    made = response.json()
    assert set(made) == FIELDS
    assert made["id"][14] == "7"
    assert response.headers["location"] == f"/v1/libraries/{made['id']}"
    assert made["embedder"] == "static"
    assert made["embedder_identity"].startswith("static:")
    assert (made["dimension"], made["metric"]) == (256, "cosine")
    assert (made["chunk_size"], made["chunk_overlap"]) == (1_000, 100)
    assert (made["language"], made["quantization"]) == ("en", "none")
    assert (made["description"], made["metadata"], made["version"]) == (None, {}, 1)
    assert (made["documents"], made["chunks"]) == (0, 0)
    (event,) = client.all_events(library_id=made["id"])
    assert (event["type"], event["id"]) == ("library.created", made["cursor"])
    assert event["data"]["name"] == "made with defaults"


def test_every_field_can_be_given(client: Client) -> None:
    given: dict[str, Any] = {
        "name": "Größe & Maß 😀",
        "description": "d",
        "embedder": "none",
        "dimension": 3,
        "metric": "euclidean",
        "chunk_size": 32,
        "chunk_overlap": 31,
        "metadata": {"owner": {"team": ["a"]}},
    }
    made = client.create_library(**given)
    assert {key: made[key] for key in given} == given
    by_name = answer(client.http.get(f"/v1/libraries/{quote(str(given['name']), safe='')}"))
    by_id = answer(client.http.get(f"/v1/libraries/{made['id']}"))
    assert by_name["id"] == by_id["id"] == made["id"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'{"name":"a","metadata":{"x":NaN}}', 400, "invalid_json"),
        (b'{"name":"a\\ud800"}', 400, "invalid_json"),
        (b"[]", 422, "invalid_library"),
        (b"{}", 422, "invalid_library"),
        (b'{"name":1}', 422, "invalid_library"),
        (b'{"name":""}', 422, "invalid_library"),
        (b'{"name":" a"}', 422, "invalid_library"),
        (b'{"name":"a "}', 422, "invalid_library"),
        (b'{"name":"a/b"}', 422, "invalid_library"),
        (b'{"name":"a\\nb"}', 422, "invalid_library"),
        (b'{"name":"a\\u0000"}', 422, "invalid_library"),
        (b'{"name":"%s"}' % (b"x" * 129), 422, "invalid_library"),
        (b'{"name":"01a20e30-dc44-7fcc-bc02-acffe933296d"}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"gpt"}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"none"}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"none","dimension":0}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"none","dimension":-3}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"none","dimension":4097}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"none","dimension":1.5}', 422, "invalid_library"),
        (b'{"name":"a","embedder":"none","dimension":1e30}', 422, "invalid_library"),
        (b'{"name":"a","dimension":3}', 422, "invalid_library"),
        (b'{"name":"a","metric":"manhattan"}', 422, "invalid_library"),
        (b'{"name":"a","chunk_size":31}', 422, "invalid_library"),
        (b'{"name":"a","chunk_size":1000001}', 422, "invalid_library"),
        (b'{"name":"a","chunk_size":50,"chunk_overlap":50}', 422, "invalid_library"),
        (b'{"name":"a","chunk_overlap":-1}', 422, "invalid_library"),
        (b'{"name":"a","language":"tlh"}', 422, "invalid_library"),
        (b'{"name":"a","metadata":[]}', 422, "invalid_library"),
        (b'{"name":"a","metadata":{"x":"\\u0000"}}', 422, "invalid_library"),
        (b'{"name":"a","metadata":{"x":%s}}' % (b"[" * 900 + b"]" * 900), 422, "invalid_library"),
        (b'{"name":"a","description":"a\\u0000b"}', 422, "invalid_library"),
        (b'{"name":"a","colour":"red"}', 422, "unknown_field"),
    ],
)
def test_a_wrong_library_is_refused(client: Client, body: bytes, status: int, error: str) -> None:
    response = client.http.post("/v1/libraries", content=body)
    assert code(response) == (status, error)
    assert client.http.get("/v1/libraries").status_code == 200


@pytest.mark.parametrize("name", ["x", "x" * 128, "a b", "a.b", "..a", "%41", "?", "#1", "日本"])
def test_odd_names_are_found(client: Client, name: str) -> None:
    made = client.create_library(name)
    assert answer(client.http.get(f"/v1/libraries/{quote(name, safe='')}"))["id"] == made["id"]
    answer(client.http.delete(f"/v1/libraries/{quote(name, safe='')}"))


def test_a_name_is_taken_until_its_library_is_deleted(client: Client) -> None:
    made = client.create_library("taken")
    response = client.http.post("/v1/libraries", json={"name": "taken"})
    assert code(response) == (409, "library_exists")
    client.put("taken", "a", {"text": "the first one's document"})
    gone = answer(client.http.delete("/v1/libraries/taken"))
    assert gone["id"] == made["id"]
    again = client.create_library("taken")
    assert again["id"] != made["id"]
    assert again["documents"] == 0
    assert client.get("taken", "a") is None
    assert client.search("taken", "document")["results"] == []
    assert client.put("taken", "a", {"text": "new"})["status"] == "created"
    assert code(client.http.get(f"/v1/libraries/{made['id']}")) == (404, "library_not_found")


def test_figures_follow_the_documents(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}"
    client.put(library, "a", {"texts": ["x", "y", "z"]})
    client.put(library, "b", {"text": "x"})
    client.put(library, "a", {"texts": ["x", "y"]})
    client.search(library, "x")
    found = answer(client.http.get(path))
    assert set(found) == FIELDS | {"index"}
    assert (found["documents"], found["chunks"]) == (2, 3)
    index = found["index"]
    assert index["state"] == "ready"
    assert index["rows"] == 3
    assert set(index) == {
        "state",
        "cursor",
        "rows",
        "head_rows",
        "segments",
        "dead_rows",
        "memory_bytes",
    }
    client.delete(library, "a")
    found = answer(client.http.get(path))
    assert (found["documents"], found["chunks"]) == (1, 1)


def test_a_patch_changes_what_it_names(client: Client) -> None:
    made = client.create_library("before", description="d", metadata={"a": 1, "b": 2})
    path = f"/v1/libraries/{made['id']}"
    patched = answer(client.http.patch(path, json={"name": "after", "metadata": {"c": 3}}))
    assert patched["name"] == "after"
    assert patched["metadata"] == {"c": 3}
    assert patched["description"] == "d"
    assert patched["version"] == 2
    assert patched["updated_at"] > made["updated_at"]
    assert client.http.get("/v1/libraries/before").status_code == 404
    assert answer(client.http.get("/v1/libraries/after"))["id"] == made["id"]
    same = answer(client.http.patch(path, json={"name": "after"}))
    assert (same["version"], same["cursor"]) == (2, patched["cursor"])
    none = answer(client.http.patch(path, json={"description": None}))
    assert none["description"] is None
    events = client.all_events(library_id=made["id"], types="library.*")
    assert [event["type"] for event in events] == [
        "library.created",
        "library.updated",
        "library.updated",
    ]
    client.create_library("somebody else")
    taken = client.http.patch(path, json={"name": "somebody else"})
    assert code(taken) == (409, "library_exists")


def test_chunking_concerns_later_writes_only(client: Client, library: str) -> None:
    text = "Some words that go on. " * 20
    assert client.put(library, "a", {"text": text})["num_chunks"] == 1
    path = f"/v1/libraries/{library}"
    answer(client.http.patch(path, json={"chunk_size": 60, "chunk_overlap": 0}))
    found = client.get(library, "a")
    assert found is not None
    assert found["num_chunks"] == 1
    assert client.put(library, "b", {"text": text})["num_chunks"] > 5


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"metric": "dot"}, "unknown_field"),
        ({"dimension": 3}, "unknown_field"),
        ({"embedder": "none"}, "unknown_field"),
        ({"name": None}, "invalid_library"),
        ({"name": "a/b"}, "invalid_library"),
        ({"metadata": None}, "invalid_library"),
        ({"chunk_size": 10}, "invalid_library"),
        ({"chunk_overlap": 1_000}, "invalid_library"),
        ({"metadata": {"x": "\0"}}, "invalid_library"),
        ({"description": "\0"}, "invalid_library"),
    ],
)
def test_a_wrong_patch_is_refused(
    client: Client, library: str, body: dict[str, Any], error: str
) -> None:
    response = client.http.patch(f"/v1/libraries/{library}", json=body)
    assert code(response) == (422, error)
    assert answer(client.http.get(f"/v1/libraries/{library}"))["version"] == 1


def test_libraries_are_listed_in_pages_in_order_of_creation(client: Client) -> None:
    made = [client.create_library()["id"] for _ in range(7)]
    answer(client.http.delete(f"/v1/libraries/{made.pop(3)}"))
    listed: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": 3} | ({"after": after} if after else {})
        page = answer(client.http.get("/v1/libraries", params=params))
        assert set(page) == {"libraries", "next"}
        assert all(set(library) == FIELDS for library in page["libraries"])
        listed += [library["id"] for library in page["libraries"]]
        after = page["next"]
        if after is None:
            break
    assert [id for id in listed if id in set(made)] == made
    assert len(set(listed)) == len(listed)


def test_a_missing_library_is_said_so_everywhere(client: Client) -> None:
    base = "/v1/libraries/nowhere"
    requests = [
        ("GET", base, None),
        ("PATCH", base, b"{}"),
        ("DELETE", base, None),
        ("POST", f"{base}/documents", b'{"text":"a"}'),
        ("GET", f"{base}/documents", None),
        ("POST", f"{base}/documents/batch", b'{"documents":[]}'),
        ("POST", f"{base}/documents/stream", b'{"text":"a"}\n'),
        ("GET", f"{base}/documents/stream", None),
        ("GET", f"{base}/documents/a", None),
        ("PUT", f"{base}/documents/a", b'{"text":"a"}'),
        ("PATCH", f"{base}/documents/a", b"{}"),
        ("DELETE", f"{base}/documents/a", None),
        ("POST", f"{base}/search", b'{"query":"a"}'),
        ("POST", f"{base}/search/batch", b'{"queries":[{"query":"a"}]}'),
        ("POST", f"{base}/search/stream", b'{"query":"a"}'),
        ("GET", f"{base}/events/stream", None),
        ("GET", "/v1/events?library_id=nowhere", None),
        ("GET", "/v1/events/stream?library_id=nowhere", None),
    ]
    for method, path, body in requests:
        response = client.http.request(method, path, content=body)
        assert code(response) == (404, "library_not_found"), (method, path)
        assert response.headers["content-type"] == "application/problem+json"


def test_a_large_library_is_deleted_while_another_is_written_without_stalls(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        large = client.create_library("large", embedder="none", dimension=8)["id"]
        other = client.create_library("other", embedder="none", dimension=8)["id"]
        for start in range(0, 20_000, 5_000):
            documents = [
                {
                    "id": f"d{n}",
                    "chunks": [{"text": f"t{n}", "vector": [n + 1, 1, 0, 0, 0, 0, 0, 1]}],
                }
                for n in range(start, start + 5_000)
            ]
            assert client.stream(large, documents, response="summary")[-1]["created"] == 5_000

        slowest = 0.0
        written = 0
        stop = threading.Event()

        def write() -> None:
            nonlocal slowest, written
            with Client(server.url) as writer:
                while not stop.is_set():
                    began = time.monotonic()
                    vector = [written + 1, 0, 0, 0, 0, 0, 0, 1]
                    writer.put(other, f"w{written}", {"chunks": [{"vector": vector}]})
                    slowest = max(slowest, time.monotonic() - began)
                    written += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            began = time.monotonic()
            gone = answer(client.http.delete("/v1/libraries/large"))
            took = time.monotonic() - began
            assert gone["id"] == large
            assert client.http.get("/v1/libraries/large").status_code == 404
            assert client.create_library("large", embedder="none", dimension=8)["documents"] == 0
            # The sweep goes on while the writer writes: wait for 100 more writes.
            target = written + 100
            while written < target and thread.is_alive():
                stop.wait(0.01)
        finally:
            stop.set()
            thread.join()
        # The answer does not wait for the sweep, nor does any other writer.
        assert took < 2
        assert slowest < 2
        assert len(client.documents(other)) == written
        events = client.all_events(types="library.*")
        assert [event["type"] for event in events] == [
            "library.created",
            "library.created",
            "library.deleted",
            "library.created",
        ]
        deleted = events[2]
        assert deleted["id"] == gone["cursor"]
        assert deleted["library_id"] == large
        assert deleted["data"]["documents"] == 20_000
        # The log of the deleted library can still be read.
        told = client.all_events(library_id=large, types="document.*")
        assert [event["data"]["document_id"] for event in told] == [f"d{n}" for n in range(20_000)]


def test_a_library_deleted_under_a_stream_fails_its_lines(client: Client) -> None:
    library = client.create_library()["id"]
    other = client.create_library()["id"]

    def body() -> Any:
        yield b'{"id":"a","text":"x"}\n'
        # The first group is committed when its document can be read.
        deadline = time.monotonic() + 20
        with Client(client.url) as second:
            while second.get(library, "a") is None:
                assert time.monotonic() < deadline
            answer(second.http.delete(f"/v1/libraries/{library}"))
        yield b'{"id":"b","text":"x"}\n'

    records = client.stream_raw(library, body())
    by_line = {record["line"]: record for record in records if record["type"] == "result"}
    assert by_line[1]["status"] == "created"
    assert by_line[2]["status"] == "failed"
    assert by_line[2]["error"]["code"] == "library_not_found"
    assert records[-1]["type"] == "summary"
    assert (records[-1]["created"], records[-1]["failed"]) == (1, 1)
    assert client.put(other, "a", {"text": "x"})["status"] == "created"
