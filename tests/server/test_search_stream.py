"""Hits as a stream: the search line by line, asked by a body or by query parameters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from server.client import Client, Json, answer, ndjson
from server.conftest import Serve
from server.conversation import Conversation
from server.running import Server
from server.searching import Floats, at, expected_scores, random_vectors, stream


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
    *hits, done = stream(client, library, body, **params)
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
    assert answer(client.http.post(at(filled), params=words))["results"] == hits


def test_parameters_win_over_the_body(client: Client, filled: str) -> None:
    hits, _ = streamed(client, filled, {"query": "bread", "k": 9}, k=2)
    assert len(hits) == 2
    assert "bread" in hits[0]["text"]
    plain = client.http.post(at(filled), json={"query": "bread", "k": 9}, params={"k": 2})
    assert answer(plain)["results"] == hits


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
    paths = (
        [f"{at(filled)}/stream"] if "group_by" in params else [at(filled), f"{at(filled)}/stream"]
    )
    for path in paths:
        response = client.http.post(path, params=params)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, code)
        assert problem.get("parameter") == parameter


def test_groups_are_asked_for_by_parameters_too(client: Client, filled: str) -> None:
    words = {"query": "sea", "group_by": "document", "group_size": "2", "explain": "true"}
    by_words = answer(client.http.post(at(filled), params=words))
    by_body = client.search(filled, query="sea", group_by="document", group_size=2)
    assert by_words["results"] == by_body["results"]
    assert by_words["explanation"]


def test_every_field_of_a_search_is_a_parameter(client: Client) -> None:
    document = answer(client.http.get("/openapi.json"))
    fields = document["components"]["schemas"]["Query"]["properties"]
    for path in ("search", "search/stream"):
        route = document["paths"][f"/v1/libraries/{{library}}/{path}"]["post"]
        assert {each["name"] for each in route["parameters"]} == {"library", *fields}


def test_a_stream_of_hits_is_the_search_line_by_line(
    client: Client, many: tuple[str, Floats]
) -> None:
    library, _ = many
    query = {"vector": random_vectors(7, 1)[0].tolist(), "k": 777, "include": ["distance"]}
    plain = answer(client.http.post(at(library), json=query))
    *hits, done = stream(client, library, query)
    assert [{**hit} for hit in hits] == [{"type": "hit", **hit} for hit in plain["results"]]
    assert set(done) == {"type", "count", "exact", "cursor", "took_ms", "next"}
    assert done["next"] == plain["next"]
    assert (done["type"], done["count"]) == ("done", 777)
    *_, exact = stream(client, library, {**query, "exact": True})
    assert exact["exact"] is True


def test_a_search_stream_by_parameters(client: Client, library: str) -> None:
    client.stream(library, [{"id": f"d{n}", "text": f"sea {n}"} for n in range(20)])
    *hits, done = stream(client, library, query="the sea", k=5, include="vector,distance")
    assert done["count"] == len(hits) == 5
    assert {"vector", "distance"} <= set(hits[0])
    # A parameter wins over the body.
    *hits, done = stream(client, library, {"query": "the sea", "k": 5}, k=3)
    assert done["count"] == 3
    cursor = client.put(library, "new", {"text": "the newest sea"})["cursor"]
    *hits, _ = stream(client, library, query="newest", k=50, min_cursor=cursor, exact="true")
    assert "new" in {hit["document_id"] for hit in hits}
    wrong: list[dict[str, str]] = [{}, {"k": "0"}, {"k": "y"}, {"query": "x" * 10_001}]
    for params in ({"query": "x"} | one if one else one for one in wrong):
        response = client.http.post(f"{at(library)}/stream", params=params)
        assert response.status_code == 422, params


def test_ten_thousand_hits_stream_in_rank_order(client: Client, many: tuple[str, Floats]) -> None:
    library, matrix = many
    query = random_vectors(8, 1)[0]
    path = f"{at(library)}/stream"
    body = json.dumps({"vector": query.tolist(), "k": 10_000, "exact": True}).encode()
    with Conversation(client.url, "POST", path, {"content-length": str(len(body))}) as talk:
        talk.send(body)
        records = list(talk.records())
    hits, done = records[:-1], records[-1]
    assert done["count"] == len(hits) == 10_000
    order = np.argsort(-expected_scores("cosine", matrix, query))[:10_000]
    assert [hit["rank"] for hit in hits] == list(range(1, 10_001))
    assert {hit["document_id"] for hit in hits} == {f"d{n}" for n in order}
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(hit["text"] == f"text {hit['document_id'][1:]}" for hit in hits)
    plain = client.search(library, vector=query.tolist(), k=10_000, exact=True)["results"]
    assert [hit["chunk_id"] for hit in plain] == [hit["chunk_id"] for hit in hits]


def test_large_hit_streams_nobody_reads_take_no_memory(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=4)["id"]
        text = "x" * 2_000
        for start in range(0, 12_000, 2_000):
            documents = [
                {"id": f"d{n}", "chunks": [{"text": text, "vector": [n + 1, 1, n % 7, 0]}]}
                for n in range(start, start + 2_000)
            ]
            client.stream(library, documents, response="summary")
        body = json.dumps({"vector": [1, 2, 3, 4], "k": 10_000}).encode()
        headers = {"content-length": str(len(body))}
        path = f"{at(library)}/stream"
        with Conversation(server.url, "POST", path, headers) as talk:
            talk.send(body)
            assert len(list(talk.records())) == 10_001
        before = server.rss_bytes()
        # Each answer is 20 MB: a server that held them would hold 400.
        talks = [
            Conversation(server.url, "POST", path, headers, receive_buffer=4_096) for _ in range(20)
        ]
        try:
            for talk in talks:
                talk.send(body)
            for talk in talks:
                assert json.loads(talk.read_line() or b"")["rank"] == 1
            assert client.search(library, vector=[1, 2, 3, 4])["results"]
            assert server.rss_bytes() - before < 60 << 20
            *_, done = talks[0].records()
            assert done["count"] == 10_000
        finally:
            for talk in talks:
                talk.close()
