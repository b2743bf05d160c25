"""Search over HTTP, against numpy: scores, ranks, thresholds, and searches that are refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from server.client import Client, answer
from server.running import eventually
from server.searching import (
    Floats,
    Metric,
    at,
    code,
    expected_scores,
    fill,
    random_vectors,
    stream,
)

HIT = {"rank", "chunk_id", "document_id", "title", "text", "score", "metadata"}
# ── Scores ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_scores_and_order_are_those_of_numpy(client: Client, metric: Metric) -> None:
    library = client.create_library(embedder="none", dimension=8, metric=metric)["id"]
    matrix = random_vectors(2, 300, 8) * np.linspace(0.1, 5, 300, dtype=np.float32)[:, None]
    fill(client, library, matrix)
    for query in random_vectors(3, 5, 8):
        scores = expected_scores(metric, matrix, query)
        order = np.argsort(-scores, kind="stable")
        for k in (1, 10, 300, 1_000):
            for exact in (False, True):
                hits = client.search(
                    library, vector=query.tolist(), k=k, exact=exact, include=["distance"]
                )["results"]
                assert [hit["document_id"] for hit in hits] == [f"d{n}" for n in order[:k]]
                assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
                assert [hit["score"] for hit in hits] == pytest.approx(
                    scores[order[:k]].tolist(), rel=1e-4, abs=1e-5
                )
                for hit in hits:
                    wanted = {
                        "cosine": 1 - hit["score"],
                        "dot": -hit["score"],
                        "euclidean": 1 / hit["score"] - 1,
                    }[metric]
                    assert hit["distance"] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_equal_scores_are_ordered_by_age(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=2)["id"]
    fill(client, library, np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32))
    hits = client.search(library, vector=[1, 0], k=4)["results"]
    assert [hit["document_id"] for hit in hits] == ["d0", "d2", "d3", "d1"]


def test_large_libraries_are_searched_well_and_exactly_when_asked(
    client: Client, many: tuple[str, Floats]
) -> None:
    library, matrix = many
    found = wanted = 0
    for query in random_vectors(4, 20):
        scores = expected_scores("cosine", matrix, query)
        best = {f"d{n}" for n in np.argsort(-scores)[:10]}
        exact = client.search(library, vector=query.tolist(), exact=True)["results"]
        assert {hit["document_id"] for hit in exact} == best
        near = client.search(library, vector=query.tolist())["results"]
        for hit in near:  # candidates may be missed; their scores are exact
            number = int(hit["document_id"][1:])
            assert hit["score"] == pytest.approx(float(scores[number]), abs=1e-5)
        found += len(best & {hit["document_id"] for hit in near})
        wanted += len(best)
    assert found / wanted >= 0.97


def test_a_wider_walk_is_asked_for_per_search(client: Client, many: tuple[str, Floats]) -> None:
    library, matrix = many

    def built() -> bool:
        index = answer(client.http.get(f"/v1/libraries/{library}"))["index"]
        return bool(index["head_rows"] < 1_000)

    eventually(built, "the graph to be built")
    found: dict[int, int] = {16: 0, 500: 0}
    for query in random_vectors(6, 20):
        best = {f"d{n}" for n in np.argsort(-expected_scores("cosine", matrix, query))[:10]}
        for ef in found:
            told = client.search(library, vector=query.tolist(), ef=ef, explain=True)
            parts = told["explanation"]["vector"]["parts"]
            walked = [part["ef"] for part in parts if part["plan"] == "graph"]
            assert set(walked) == {max(ef, 22)}  # twice the hits at least
            found[ef] += len(best & {hit["document_id"] for hit in told["results"]})
    assert found[16] < found[500]


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_the_zero_vector_is_stored_and_harms_no_search(client: Client, metric: Metric) -> None:
    library = client.create_library(embedder="none", dimension=2, metric=metric)["id"]
    fill(client, library, np.array([[1, 1], [0, 0], [-1, 2]], np.float32))
    for query in ([1.0, 1.0], [0.0, 0.0]):
        hits = client.search(library, vector=query, k=3, include=["distance"])["results"]
        assert {hit["document_id"] for hit in hits} == {"d0", "d1", "d2"}
        assert all(math.isfinite(hit["score"]) for hit in hits)


def test_very_large_and_small_numbers_stay_finite_json(client: Client) -> None:
    for metric in ("cosine", "dot", "euclidean"):
        library = client.create_library(embedder="none", dimension=2, metric=metric)["id"]
        fill(client, library, np.array([[5e17, 5e17], [1e-40, 0], [1, 1]], np.float32))
        response = client.http.post(
            at(library), json={"vector": [5e17, 5e17], "include": ["distance", "vector"]}
        )
        assert response.status_code == 200
        hits = json.loads(response.text, parse_constant=lambda name: pytest.fail(name))["results"]
        assert len(hits) == 3
        assert hits[0]["document_id"] == "d0"


# ── What a hit shows ────────────────────────────────────────────────────────────────────────────


def test_a_hit_has_its_fields(client: Client, library: str) -> None:
    client.put(
        library, "a", {"title": "Tides", "text": "The moon pulls the sea.", "metadata": {"n": 1}}
    )
    client.put(library, "b", {"texts": ["Bread is flour and water."]})
    body = client.search(library, "what moves the ocean?", k=2, mode="vector")
    assert set(body) == {"results", "cursor", "took_ms"}
    first, second = body["results"]
    assert set(first) == HIT | {"start", "end"}
    assert set(second) == HIT
    assert (first["document_id"], first["chunk_id"], first["rank"]) == ("a", "a#0", 1)
    assert (first["title"], first["text"]) == ("Tides", "The moon pulls the sea.")
    assert first["metadata"] == {"n": 1}
    assert (second["title"], second["metadata"]) == (None, {})
    assert first["score"] > second["score"]
    with_more = client.search(
        library, "the moon", k=1, mode="vector", include=["vector", "distance"]
    )
    (hit,) = with_more["results"]
    assert len(hit["vector"]) == 256
    assert np.linalg.norm(hit["vector"]) == pytest.approx(1, abs=1e-3)
    assert hit["distance"] == pytest.approx(1 - hit["score"])


def test_a_chunks_own_metadata_lies_over_its_documents(client: Client, library: str) -> None:
    client.put(
        library,
        "a",
        {
            "chunks": [
                {"text": "first", "metadata": {"page": 1, "lang": "de"}},
                {"text": "second"},
            ],
            "metadata": {"lang": "en", "year": 1},
        },
    )
    hits = client.search(library, "first", k=2)["results"]
    by_chunk = {hit["chunk_id"]: hit["metadata"] for hit in hits}
    assert by_chunk == {
        "a#0": {"page": 1, "lang": "de", "year": 1},
        "a#1": {"lang": "en", "year": 1},
    }


def test_offsets_show_a_hit_in_its_place(client: Client) -> None:
    library = client.create_library(chunk_size=80, chunk_overlap=20)["id"]
    text = "".join(f"Absatz {n} 🌊: Ebbe und Flut kommen und gehen.\r\n\r\n" for n in range(60))
    client.put(library, "a", {"text": text})
    hits = client.search(library, "Ebbe und Flut", k=100)["results"]
    assert len(hits) >= 30
    for hit in hits:
        assert text[hit["start"] : hit["end"]] == hit["text"]
        assert len(hit["text"]) <= 80


def test_a_threshold_drops_what_scores_lower(client: Client, many: tuple[str, Floats]) -> None:
    library, matrix = many
    query = random_vectors(5, 1)[0]
    scores = np.sort(expected_scores("cosine", matrix, query))[::-1]
    threshold = float(scores[7] + scores[6]) / 2
    wanted: dict[str, Any] = {"k": 50, "exact": True, "score_threshold": threshold}
    hits = client.search(library, vector=query.tolist(), **wanted)["results"]
    assert len(hits) == 7
    assert all(hit["score"] >= threshold for hit in hits)
    assert client.search(library, vector=query.tolist(), score_threshold=1.01)["results"] == []
    streamed = stream(client, library, {"vector": query.tolist(), **wanted})
    assert [record["type"] for record in streamed] == ["hit"] * 7 + ["done"]


# ── Wrong searches ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "invalid_json"),
        (b'{"query":', 400, "invalid_json"),
        (b'{"vector":[NaN]}', 400, "invalid_json"),
        (b'{"query":"\\ud800"}', 400, "invalid_json"),
        (b"[]", 422, "invalid_query"),
        (b"{}", 422, "invalid_query"),
        (b'{"query":null}', 422, "invalid_query"),
        (b'{"query":1}', 422, "invalid_query"),
        (b'{"query":"a","vector":[1]}', 422, "invalid_query"),
        (b'{"query":"a","k":0}', 422, "invalid_query"),
        (b'{"query":"a","k":-1}', 422, "invalid_query"),
        (b'{"query":"a","k":10001}', 422, "invalid_query"),
        (b'{"query":"a","k":1.5}', 422, "invalid_query"),
        (b'{"query":"a","k":"3"}', 422, "invalid_query"),
        (b'{"query":"a","k":true}', 422, "invalid_query"),
        (b'{"query":"a","k":%s}' % (b"9" * 40), 422, "invalid_query"),
        (b'{"query":"%s"}' % (b"x" * 10_001), 422, "invalid_query"),
        (b'{"query":"a","score_threshold":"x"}', 422, "invalid_query"),
        (b'{"query":"a","include":"vector"}', 422, "invalid_query"),
        (b'{"query":"a","include":["everything"]}', 422, "invalid_query"),
        (b'{"query":"a","exact":1}', 422, "invalid_query"),
        (b'{"query":"a","ef":15}', 422, "invalid_query"),
        (b'{"query":"a","ef":10001}', 422, "invalid_query"),
        (b'{"query":"a","ef":64,"mode":"keyword"}', 422, "invalid_query"),
        (b'{"query":"a","min_cursor":"now"}', 400, "invalid_cursor"),
        (b'{"query":"a","min_cursor":""}', 400, "invalid_cursor"),
        (b'{"query":"a","min_cursor":"aaaaaaaaaaaa.1"}', 410, "cursor_expired"),
        (b'{"vector":[1,2,3]}', 422, "dimension_mismatch"),
        (b'{"vector":[]}', 422, "dimension_mismatch"),
        (b'{"vector":["a"]}', 422, "invalid_query"),
        (b'{"vector":[%s1e39]}' % (b"0," * 255), 422, "invalid_vector"),
        (b'{"vector":[%s1e999]}' % (b"0," * 255), 422, "invalid_query"),
    ],
)
def test_a_wrong_search_is_refused_in_all_its_forms(
    client: Client, library: str, body: bytes, status: int, error: str
) -> None:
    response = client.http.post(at(library), content=body)
    assert code(response) == (status, error)
    if body:
        response = client.http.post(f"{at(library)}/stream", content=body)
        assert code(response) == (status, error)
        in_batch = client.http.post(f"{at(library)}/batch", content=b'{"queries":[%b]}' % body)
        if in_batch.status_code == 200:
            (result,) = in_batch.json()["answers"]
            assert result["error"]["code"] == error
        else:
            assert code(in_batch) == (status, error)


def test_a_library_without_an_embedder_is_searched_by_vectors_and_words(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=2)["id"]
    assert client.search(library, vector=[1, 0])["results"] == []
    client.put(library, "a", {"chunks": [{"vector": [1, 0], "text": "some words"}]})
    assert len(client.search(library, "words")["results"]) == 1
    response = client.http.post(at(library), json={"query": "words", "mode": "vector"})
    assert code(response) == (422, "invalid_query")


def test_a_query_without_words_finds_without_failing(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x"})
    for query in ("", " ", "\u200b", "!?", "😀", "x" * 10_000):
        body = client.search(library, query)
        assert all(math.isfinite(hit["score"]) for hit in body["results"])


def test_an_empty_library_has_no_hits(client: Client, library: str) -> None:
    assert client.search(library, "x")["results"] == []
    assert [record["type"] for record in stream(client, library, {"query": "x"})] == ["done"]
