"""Many queries in one request: each is answered as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
from server.client import Client, answer
from server.searching import (
    Floats,
    at,
    code,
    random_vectors,
)


def test_a_batch_answers_as_single_searches_do(client: Client, many: tuple[str, Floats]) -> None:
    library, _ = many
    queries: list[dict[str, Any]] = [
        {"vector": vector, "k": n + 1, "exact": n % 2 == 0}
        for n, vector in enumerate(random_vectors(6, 9).tolist())
    ]
    body = answer(client.http.post(f"{at(library)}/batch", json={"queries": queries}))
    assert set(body) == {"answers", "took_ms"}
    for query, one in zip(queries, body["answers"], strict=True):
        assert set(one) - {"next"} == {"results", "cursor", "took_ms"}
        assert one["results"] == answer(client.http.post(at(library), json=query))["results"]


def test_a_wrong_query_in_a_batch_harms_no_other(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x"})
    queries = [{"query": "x"}, {"query": "x", "k": 0}, {"vector": [1]}, {"query": "x", "k": 1}]
    body = answer(client.http.post(f"{at(library)}/batch", json={"queries": queries}))
    shape = [one["error"]["code"] if "error" in one else "results" for one in body["answers"]]
    assert shape == ["results", "invalid_query", "dimension_mismatch", "results"]
    assert set(body["answers"][1]["error"]) == {"code", "detail", "retryable"}


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (
            b'{"queries":[{"query":"a","k":9999},{"query":"b","k":2},{"query":"c","k":0}]}',
            413,
            "too_many_items",
        ),
        (b"", 400, "invalid_json"),
        (b"{}", 422, "invalid_query"),
        (b'{"queries":{}}', 422, "invalid_query"),
        (b'{"queries":[],"k":1}', 422, "unknown_field"),
        (b'{"queries":[' + b",".join([b'{"query":"x"}'] * 101) + b"]}", 413, "too_many_items"),
    ],
)
def test_a_wrong_batch_is_refused(
    client: Client, library: str, body: bytes, status: int, error: str
) -> None:
    assert code(client.http.post(f"{at(library)}/batch", content=body)) == (status, error)


def test_an_empty_batch_has_no_answers(client: Client, library: str) -> None:
    body = answer(client.http.post(f"{at(library)}/batch", json={"queries": []}))
    assert body["answers"] == []
