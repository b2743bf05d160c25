"""Small batches over HTTP: a result for each document, or the whole is refused."""

from __future__ import annotations

from typing import Any

import pytest
from server.client import Client, answer
from server.documents import at, code


def test_a_batch_has_a_result_for_each_in_order(client: Client, library: str) -> None:
    client.put(library, "same", {"text": "x"})
    client.put(library, "other", {"text": "x"})
    documents: list[Any] = [
        {"id": "new", "text": "a"},
        {"id": "same", "text": "x"},
        {"id": "bad", "text": 1},
        {"id": "other", "text": "y"},
        {"id": "empty", "text": ""},
        "no document",
        {"text": "without an id"},
        {"id": "new", "text": "b"},
    ]
    response = client.http.post(f"{at(library)}/batch", json={"documents": documents})
    body = answer(response)
    results = body.pop("results")
    cursor = body.pop("cursor")
    assert body == {"created": 2, "updated": 2, "unchanged": 1, "failed": 3}
    assert [result["index"] for result in results] == list(range(8))
    assert [result["status"] for result in results] == [
        "created",
        "unchanged",
        "failed",
        "updated",
        "failed",
        "failed",
        "created",
        "updated",
    ]
    failed = [result for result in results if result["status"] == "failed"]
    assert [(result["id"], result["error"]["code"]) for result in failed] == [
        (None, "invalid_document"),
        ("empty", "invalid_document"),
        (None, "invalid_document"),
    ]
    assert all(result["error"]["retryable"] is False for result in failed)
    assert set(results[0]) == {
        "index",
        "id",
        "status",
        "version",
        "num_chunks",
        "created_at",
        "updated_at",
        "cursor",
    }
    assert cursor == results[7]["cursor"]
    found = client.get(library, "new")
    assert found is not None
    assert (found["text"], found["version"]) == ("b", 2)


def test_an_empty_batch_is_a_batch_of_nothing(client: Client, library: str) -> None:
    body = answer(client.http.post(f"{at(library)}/batch", json={"documents": []}))
    assert body["results"] == []
    assert body["cursor"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "invalid_json"),
        (b"[]", 422, "invalid_document"),
        (b"{}", 422, "invalid_document"),
        (b'{"documents":{}}', 422, "invalid_document"),
        (b'{"documents":[],"more":1}', 422, "unknown_field"),
        (b'{"documents":[{"text":"a","metadata":{"x":NaN}}]}', 400, "invalid_json"),
        (b'{"documents":[' + b",".join([b"{}"] * 1_001) + b"]}", 413, "too_many_items"),
    ],
)
def test_a_wrong_batch_is_refused_whole(
    client: Client, library: str, body: bytes, status: int, error: str
) -> None:
    response = client.http.post(f"{at(library)}/batch", content=body)
    assert code(response) == (status, error)
    assert client.documents(library) == {}
