"""Search over HTTP, against numpy: scores, ranks, thresholds, pages, and what was just written."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from server.client import Client, Json, answer
from server.conftest import Serve
from server.conversation import Conversation
from server.running import eventually

Metric = Literal["cosine", "dot", "euclidean"]
Floats = NDArray[np.float32]

HIT = {"rank", "chunk_id", "document_id", "title", "text", "score", "metadata"}
MANY, DIMENSION = 12_000, 16


def at(library: str) -> str:
    return f"/v1/libraries/{library}/search"


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def random_vectors(seed: int, count: int, dimension: int = DIMENSION) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def expected_scores(metric: Metric, matrix: Floats, query: Floats) -> NDArray[np.float64]:
    wide, one = matrix.astype(np.float64), query.astype(np.float64)
    if metric == "dot":
        return np.asarray(wide @ one)
    if metric == "cosine":
        norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(one)
        return np.asarray(wide @ one / norms)
    return np.asarray(1 / (1 + np.linalg.norm(wide - one, axis=1)))


def fill(client: Client, library: str, matrix: Floats) -> None:
    documents = [
        {"id": f"d{n}", "chunks": [{"text": f"text {n}", "vector": vector}]}
        for n, vector in enumerate(matrix.tolist())
    ]
    summary = client.stream(library, documents, response="summary")[-1]
    assert (summary["created"], summary["searchable"]) == (len(matrix), True)


@pytest.fixture(scope="module")
def many(session_server: Any) -> tuple[str, Floats]:
    """A library of 12,000 vectors on the shared server, and the vectors."""
    matrix = random_vectors(1, MANY)
    with Client(session_server.url) as client:
        library = client.create_library(embedder="none", dimension=DIMENSION)["id"]
        fill(client, library, matrix)
    return library, matrix


def stream(client: Client, library: str, body: Json | None = None, **params: Any) -> list[Json]:
    response = client.http.post(f"{at(library)}/stream", json=body, params=params)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


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


# ── Batches and streams ─────────────────────────────────────────────────────────────────────────


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


# ── Freshness ───────────────────────────────────────────────────────────────────────────────────


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
