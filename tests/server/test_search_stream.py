"""Streamed searches asked by query parameters: each field of the body, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from server.client import Client, Json, answer, ndjson
from server.running import Server


@pytest.fixture(scope="module")
def filled(session_server: Server) -> str:
    words = ["moon", "sea", "bread", "frost", "river"]
    body = ndjson(
        {
            "id": f"d{n}",
            "text": f"the {words[n % 5]} and the {words[n % 3]} in chapter {n}",
            "metadata": {"n": n},
        }
        for n in range(60)
    )
    with Client(session_server.url) as client:
        library: str = client.create_library()["id"]
        client.stream_raw(library, body)
    return library


def streamed(
    client: Client, library: str, body: Json | None = None, **params: Any
) -> tuple[list[Json], Json]:
    response = client.http.post(f"/v1/libraries/{library}/search/stream", json=body, params=params)
    assert response.status_code == 200, response.text
    *hits, done = map(json.loads, response.text.splitlines())
    assert done["type"] == "done"
    return [{name: hit[name] for name in hit if name != "type"} for hit in hits], done


@pytest.mark.parametrize(
    "wish",
    [
        {"query": "sea and moon"},
        {"query": "sea and moon", "mode": "keyword", "k": 7},
        {"query": "sea", "mode": "hybrid", "weights": {"vector": 1, "keyword": 3}, "k": 9},
        {"query": "sea", "mode": "vector", "filter": {"n": {"$lt": 20}}, "exact": True},
        {"query": "sea", "mmr": {"relevance": 0.3}},
        {"query": "sea", "mmr": 0.3, "k": 4},
        {"like": ["d1", "d2"], "unlike": ["d3"], "k": 5},
        {"vector": [0.5] * 256, "k": 3, "include": ["vector", "distance"]},
        {"query": "sea", "mode": "vector", "score_threshold": 0.2, "ef": 40},
        {"query": "sea moon", "highlight": True},
    ],
    ids=str,
)
def test_parameters_say_what_the_body_does(client: Client, filled: str, wish: Json) -> None:
    words: Json = {}
    for name, value in wish.items():
        if name in ("filter", "vector", "weights", "mmr"):
            words[name] = json.dumps(value)
        elif name == "include":
            words[name] = ", ".join(value)
        else:
            words[name] = value
    hits, done = streamed(client, filled, **words)
    expected, _ = streamed(client, filled, wish)
    assert hits == expected
    assert done["count"] == len(hits) > 0


def test_parameters_win_over_the_body(client: Client, filled: str) -> None:
    hits, _ = streamed(client, filled, {"query": "bread", "k": 9}, k=2)
    assert len(hits) == 2
    assert "bread" in hits[0]["text"]


def test_explain_and_the_next_page_are_in_the_last_line(client: Client, filled: str) -> None:
    hits, done = streamed(client, filled, query="sea", mode="vector", k=5, explain="true")
    assert done["explanation"]
    more, _ = streamed(client, filled, query="sea", mode="vector", k=5, after=done["next"])
    both, _ = streamed(client, filled, query="sea", mode="vector", k=10)
    assert hits + more == both


@pytest.mark.parametrize(
    ("params", "code", "parameter"),
    [
        ({"query": "x", "nonsense": "1"}, "invalid_parameter", "nonsense"),
        ({"query": "x", "K": "3"}, "invalid_parameter", "K"),
        ({"query": "x", "mode": "magic"}, "invalid_parameter", "mode"),
        ({"query": "x", "k": "many"}, "invalid_parameter", "k"),
        ({"vector": "[1,"}, "invalid_query", "vector"),
        ({"vector": '["a"]'}, "invalid_query", "vector"),
        ({"query": "x", "weights": '{"words":1}'}, "invalid_query", "weights"),
        ({"query": "x", "group_by": "document"}, "invalid_query", "group_by"),
        ({"query": "x", "filter": "{"}, "invalid_filter", None),
    ],
)
def test_a_wrong_parameter_is_named(
    client: Client, filled: str, params: Json, code: str, parameter: str | None
) -> None:
    response = client.http.post(f"/v1/libraries/{filled}/search/stream", params=params)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, code)
    assert problem.get("parameter") == parameter


def test_every_field_of_a_search_is_a_parameter(client: Client) -> None:
    document = answer(client.http.get("/openapi.json"))
    route = document["paths"]["/v1/libraries/{library}/search/stream"]["post"]
    fields = document["components"]["schemas"]["Query"]["properties"]
    assert {each["name"] for each in route["parameters"]} == {"library", *fields}
