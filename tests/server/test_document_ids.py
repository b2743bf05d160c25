"""Ids over HTTP: whatever is one may be put, read, patched, found and deleted."""

from __future__ import annotations

import pytest
from server.client import Client, answer
from server.documents import at, code, post

ODD_IDS = [
    "plain",
    "with/slash",
    "/leading",
    "trailing/",
    "a//b",
    "a b",
    " edge ",
    "50%",
    "%2F",
    "a%20b",
    "q?x=1&y=2",
    "hash#0",
    "semi;colon",
    "plus+plus",
    "quo\"te'",
    "back\\slash",
    "new\nline",
    "ends in newline\n",
    "tab\tcr\r",
    "größe-😀-日本語",
    "e\u0301 vs \u00e9",
    "x" * 256,
    "😀" * 256,
    "batch",
    "~._-",
    "[{}]",
    "\u202e\ufeff",
]


@pytest.mark.parametrize("id", ODD_IDS, ids=lambda id: ascii(id)[:24])
def test_any_id_is_put_read_patched_found_and_deleted(client: Client, id: str) -> None:
    library = client.create_library()["id"]
    # Ids that a sloppy path match would take for this one.
    neighbours = {id.strip(), id.strip("/"), id.rstrip("\n")} - {id, ""}
    for other in neighbours:
        answer(post(client, library, {"id": other, "text": "the neighbour"}))
    path = at(library, id)
    created = client.http.put(path, json={"text": "x"})
    assert created.status_code == 201, created.text
    assert created.json()["id"] == id
    unchanged = post(client, library, {"id": id, "text": "x"})
    assert (unchanged.status_code, unchanged.json()["status"]) == (200, "unchanged")
    assert answer(client.http.get(path))["id"] == id
    assert client.http.head(path).status_code == 200
    assert answer(client.http.patch(path, json={"title": "t"}))["version"] == 2
    hits = client.search(library, "x", k=5)["results"]
    assert (id, f"{id}#0") in [(hit["document_id"], hit["chunk_id"]) for hit in hits]
    assert id in client.documents(library)
    gone = answer(client.http.delete(path))
    assert gone["id"] == id
    assert client.http.get(path).status_code == 404
    kept = set(client.documents(library))
    assert kept == neighbours
    told = [
        event["data"]["document_id"]
        for event in client.all_events(library_id=library, types="document.deleted")
    ]
    assert told == [id]


def test_a_slash_in_an_id_may_stay_as_it_is(client: Client, library: str) -> None:
    client.put(library, "docs/2026/a.md", {"text": "x"})
    assert client.get(library, "docs/2026/a.md") is not None
    assert client.get(library, "docs%2F2026%2Fa.md") is not None


@pytest.mark.parametrize("id", ["", "x" * 257, "a\0b"])
def test_an_impossible_id_is_refused(client: Client, library: str, id: str) -> None:
    assert code(post(client, library, {"id": id, "text": "x"})) == (422, "invalid_document")
    if id:
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            body = {"PUT": {"text": "x"}, "PATCH": {}}.get(method)
            response = client.http.request(method, at(library, id), json=body)
            assert code(response) == (422, "invalid_document"), method


def test_the_bodys_id_must_be_the_paths(client: Client, library: str) -> None:
    path = at(library, "a")
    assert client.http.put(path, json={"id": "a", "text": "x"}).status_code == 201
    assert code(client.http.put(path, json={"id": "b", "text": "x"})) == (422, "invalid_document")
    assert client.get(library, "b") is None
