"""A search finds what was acknowledged before it was asked."""

from __future__ import annotations

from server.client import Client
from server.conftest import Serve
from server.searching import (
    at,
    code,
)


def test_a_write_is_found_by_the_very_next_search(client: Client, library: str) -> None:
    for number in range(200):
        written = client.put(library, f"d{number}", {"text": f"entry number {number}"})
        body = client.search(library, f"entry number {number}", k=1_000)
        assert f"d{number}" in {hit["document_id"] for hit in body["results"]}
        assert int(body["cursor"].split(".")[1]) >= int(written["cursor"].split(".")[1])


def test_an_update_and_a_delete_are_seen_at_once(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=2)["id"]
    for number in range(50):
        client.put(library, "a", {"chunks": [{"text": f"{number}", "vector": [1, number]}]})
        (hit,) = client.search(library, vector=[1, 1])["results"]
        assert hit["text"] == f"{number}"
        client.delete(library, "a")
        assert client.search(library, vector=[1, 1])["results"] == []


def test_a_streams_summary_is_searchable(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=2)["id"]
    for number in range(20):
        summary = client.stream(
            library, [{"id": f"d{number}", "chunks": [{"vector": [1, number]}]}]
        )[-1]
        assert summary["searchable"] is True
        assert len(client.search(library, vector=[1, 0], k=100)["results"]) == number + 1


def test_min_cursor_waits_for_a_durable_write(client: Client, library: str) -> None:
    for number in range(30):
        cursor = client.put(library, f"d{number}", {"text": "x"}, wait="durable")["cursor"]
        found = client.search(library, "x", k=100, min_cursor=cursor)["results"]
        assert f"d{number}" in {hit["document_id"] for hit in found}


def test_a_min_cursor_that_does_not_come_is_a_clear_503(serve: Serve) -> None:
    server = serve(search__max_wait=0.3)
    with Client(server.url) as client:
        made = client.create_library()
        log_id = made["cursor"].split(".")[0]
        response = client.http.post(
            at(made["id"]), json={"query": "x", "min_cursor": f"{log_id}.999999"}
        )
        assert code(response) == (503, "not_caught_up")
        assert response.json()["retryable"] is True
        assert response.headers["retry-after"] == "1"
        assert response.json()["head"] == made["cursor"]
