"""Searching in every mode, over HTTP, against the same worked out from the documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from server.client import Client, Json
from server.running import Server, eventually

Serve = Callable[..., Server]

TOPICS = ("tides", "bread", "trains", "stars")
TEXTS = {
    "tides": "the moon pulls the water of the ocean and the tide follows",
    "bread": "flour and water and salt become dough and the dough becomes bread",
    "trains": "the night train leaves the station and crosses the border",
    "stars": "a star is a ball of hot gas that shines for billions of years",
}


def filled(client: Client, count: int = 40) -> str:
    """Documents of four topics with metadata; the number is a word of its own text."""
    library: str = client.create_library()["id"]
    lines = [
        {
            "id": f"d{number}",
            "title": f"Document {number}",
            "texts": [f"{TEXTS[TOPICS[number % 4]]}, note number{number}"],
            "metadata": {"topic": TOPICS[number % 4], "n": number, "tags": [f"t{number % 3}"]},
        }
        for number in range(count)
    ]
    client.stream(library, lines)
    return library


def ids(answer: Json) -> list[str]:
    return [hit["document_id"] for hit in answer["results"]]


def test_filters_hold_in_every_mode(client: Client) -> None:
    library = filled(client)
    for mode in ("vector", "keyword", "hybrid"):
        answer = client.search(
            library, "the moon and the water", mode=mode, k=40, filter={"n": {"$lt": 7}}
        )
        assert {int(id[1:]) for id in ids(answer)} <= set(range(7))
        assert answer["results"]
    answer = client.search(library, "water", mode="vector", k=40, filter={"topic": "bread"})
    assert sorted(ids(answer)) == sorted(f"d{number}" for number in range(1, 40, 4))
    assert client.search(library, "water", filter={"topic": "nothing"})["results"] == []


def test_filter_sees_a_patch_and_a_delete_at_once(client: Client) -> None:
    library = filled(client, 8)
    wanted: dict[str, Any] = {"mode": "vector", "filter": {"topic": "new"}}
    assert client.search(library, "water", **wanted)["results"] == []
    client.http.patch(
        f"/v1/libraries/{library}/documents/d3", json={"metadata": {"topic": "new"}}
    ).raise_for_status()
    assert ids(client.search(library, "water", **wanted)) == ["d3"]
    client.delete(library, "d3")
    assert client.search(library, "water", **wanted)["results"] == []


def test_wrong_filter_names_its_place(client: Client) -> None:
    library = filled(client, 4)
    answer = client.http.post(
        f"/v1/libraries/{library}/search",
        json={"query": "x", "filter": {"$or": [{"n": 1}, {"n": {"$gtt": 2}}]}},
    )
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["code"], problem["path"]) == ("invalid_filter", "$or[1].n.$gtt")


def test_text_is_searched_by_words_and_meaning(client: Client) -> None:
    library = filled(client)
    (best, *_) = client.search(library, "number17")["results"]
    assert best["document_id"] == "d17"
    assert best["legs"]["keyword"]["rank"] == 1
    assert best["score"] == pytest.approx(
        sum(1 / (60 + leg["rank"]) for leg in best["legs"].values())
    )
    words = client.search(library, "number17", mode="keyword")["results"]
    assert [hit["document_id"] for hit in words] == ["d17"]


def test_words_are_highlighted_where_they_stand(client: Client) -> None:
    library = filled(client)
    wish: Json = {"highlight": True, "mode": "keyword", "k": 3}
    for hit in client.search(library, "shining oceans", **wish)["results"]:
        marked = [hit["text"][mark["start"] : mark["end"]] for mark in hit["highlights"]]
        assert marked
        assert set(marked) <= {"shines", "ocean"}
        assert hit["snippet"] == {"start": 0, "end": len(hit["text"])}
    answer = client.http.post(
        f"/v1/libraries/{library}/search", json={"like": ["d1"], "highlight": True}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_query")


def test_weights_move_a_hybrid_search_to_one_of_its_legs(client: Client) -> None:
    library = filled(client)
    query = "the ocean number5"
    vector = ids(client.search(library, query, mode="vector", k=5))
    keyword = ids(client.search(library, query, mode="keyword", k=5))
    for weights, expected in (({"keyword": 0}, vector), ({"vector": 0}, keyword)):
        answer = client.search(library, query, mode="hybrid", k=len(expected), weights=weights)
        assert ids(answer) == expected


def test_pages_join_to_one_answer(client: Client) -> None:
    library = filled(client)
    for mode in ("vector", "keyword", "hybrid"):
        whole = client.search(library, "the water of the moon", mode=mode, k=30)["results"]
        seen: list[Json] = []
        after: dict[str, Any] = {}
        while len(seen) < len(whole):
            page = client.search(library, "the water of the moon", mode=mode, k=7, **after)
            seen += page["results"]
            if "next" not in page:
                break
            after = {"after": page["next"]}
        assert [hit["rank"] for hit in seen] == list(range(1, len(seen) + 1))
        assert [hit["chunk_id"] for hit in seen[: len(whole)]] == [hit["chunk_id"] for hit in whole]


def test_page_goes_on_where_it_was_although_something_better_came(client: Client) -> None:
    library: str = client.create_library(embedder="none", dimension=2)["id"]
    for number in range(10):
        client.put(library, f"d{number}", {"chunks": [{"vector": [1, number]}]})
    first = client.search(library, vector=[1, 0], k=4)
    client.put(library, "best", {"chunks": [{"vector": [1, 0]}]})
    client.delete(library, "d5")
    second = client.search(library, vector=[1, 0], k=4, after=first["next"])
    assert ids(first) == ["d0", "d1", "d2", "d3"]
    assert ids(second) == ["d4", "d6", "d7", "d8"]


def test_page_of_another_search_is_refused(client: Client) -> None:
    library = filled(client)
    token = client.search(library, "water", mode="vector", k=3)["next"]
    for wish in ({"query": "fire", "mode": "vector"}, {"query": "water", "mode": "hybrid"}):
        answer = client.http.post(
            f"/v1/libraries/{library}/search", json={**wish, "k": 3, "after": token}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")


def test_groups_are_documents_with_their_best_chunks(client: Client) -> None:
    library: str = client.create_library(embedder="none", dimension=2)["id"]
    for number in range(6):
        chunks = [{"vector": [1, number + part / 10], "text": f"{part}"} for part in range(9)]
        client.put(library, f"d{number}", {"chunks": chunks, "metadata": {"n": number}})
    answer = client.search(library, vector=[1, 0], k=4, group_by="document", group_size=2)
    groups = answer["results"]
    assert [group["document_id"] for group in groups] == ["d0", "d1", "d2", "d3"]
    assert [group["rank"] for group in groups] == [1, 2, 3, 4]
    for group in groups:
        assert [hit["text"] for hit in group["hits"]] == ["0", "1"]
        assert group["score"] == group["hits"][0]["score"]
        assert group["metadata"] == {"n": int(group["document_id"][1:])}


def test_examples_find_what_is_like_them_and_not_themselves(client: Client) -> None:
    library = filled(client)
    answer = client.search(library, like=["d0", "d4"], k=8)
    assert {"d0", "d4"}.isdisjoint(ids(answer))
    assert {int(id[1:]) % 4 for id in ids(answer)} == {0}
    away = client.search(library, like=["d0"], unlike=["d1"], k=9)
    assert {int(id[1:]) % 4 for id in ids(away)} == {0}
    missing = client.http.post(f"/v1/libraries/{library}/search", json={"like": ["nobody"]})
    assert (missing.status_code, missing.json()["code"]) == (422, "invalid_query")


def test_diversity_brings_other_topics_into_the_answer(client: Client) -> None:
    library = filled(client)
    query = "water"
    plain = client.search(library, query, mode="vector", k=4)
    spread = client.search(library, query, mode="vector", k=4, mmr=0.2)
    topics = {int(id[1:]) % 4 for id in ids(spread)}
    assert ids(spread)[0] == ids(plain)[0]
    assert len(topics) > len({int(id[1:]) % 4 for id in ids(plain)})
    assert ids(client.search(library, query, mode="vector", k=4, mmr=1)) == ids(plain)


def test_explanation_shows_the_plan(client: Client) -> None:
    library = filled(client)
    answer = client.search(
        library, "water", mode="hybrid", filter={"n": {"$gte": 30}}, explain=True
    )
    told = answer["explanation"]
    assert told["mode"] == "hybrid"
    assert told["filter"]["passing"] == 10
    assert sum(part["passing"] for part in told["vector"]["parts"]) == 10
    assert {"embed", "filter", "vector", "keyword", "fetch"} <= set(told)
    assert all(part["took_ms"] >= 0 for part in told.values() if isinstance(part, dict))
    path = f"/v1/libraries/{library}/search?explain=true"
    assert "explanation" in client.http.post(path, json={"query": "water"}).json()


@pytest.mark.parametrize(
    "wish",
    [
        {"query": "a", "like": ["b"]},
        {"vector": [1], "mode": "keyword"},
        {"vector": [1], "mode": "hybrid"},
        {"query": "a", "mode": "hybrid", "score_threshold": 0.5},
        {"query": "a", "mode": "best"},
        {"query": "a", "mode": "vector", "weights": {"vector": 2}},
        {"query": "a", "mode": "hybrid", "weights": {"vector": -1}},
        {"query": "a", "mode": "hybrid", "weights": {"vector": 0, "keyword": 0}},
        {"query": "a", "mmr": 2},
        {"query": "a", "mmr": {"relevance": 0.5, "candidates": 3}},
        {"query": "a", "unlike": ["b"]},
        {"query": "a", "group_by": "colour"},
        {"query": "a", "group_by": "document", "group_size": 0},
        {"query": "a", "group_by": "document", "after": "x"},
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(client: Client, wish: Json) -> None:
    library = client.create_library()["id"]
    answer = client.http.post(f"/v1/libraries/{library}/search", json=wish)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_query")


def test_a_streamed_search_takes_the_same_wishes(client: Client) -> None:
    library = filled(client)
    wish = {"query": "water of the moon", "mode": "hybrid", "k": 12, "filter": {"n": {"$lt": 30}}}
    lines = client.http.post(f"/v1/libraries/{library}/search/stream", json=wish).text.split("\n")
    answer = client.http.post(f"/v1/libraries/{library}/search", json=wish).json()
    assert len(lines) == 14
    assert [hit["chunk_id"] for hit in answer["results"]] == [
        hit["chunk_id"] for hit in map(_decoded, lines[:12])
    ]


def test_large_answers_are_put_together_as_small_ones_are(client: Client) -> None:
    library = filled(client, 230)
    wish: Json = {"query": "water", "mode": "vector", "include": ["vector", "distance"]}
    large = client.search(library, **wish, k=230)["results"]
    small = client.search(library, **wish, k=5)["results"]
    assert large[:5] == small
    assert len(large) == 230
    body = {"queries": [{**wish, "k": 230}, {"query": "x", "k": 0}]}
    answers = client.http.post(f"/v1/libraries/{library}/search/batch", json=body).json()["answers"]
    assert answers[0]["results"] == large
    assert answers[1]["error"]["code"] == "invalid_query"


def _decoded(line: str) -> Json:
    decoded: Json = json.loads(line)
    return decoded


def test_filtered_search_equals_brute_force(client: Client) -> None:
    random = np.random.default_rng(3)
    library: str = client.create_library(embedder="none", dimension=8, metric="dot")["id"]
    vectors = random.normal(size=(300, 8)).astype(np.float32)
    lines = [
        {"id": f"d{n}", "chunks": [{"vector": vector.tolist()}], "metadata": {"n": n % 7, "m": n}}
        for n, vector in enumerate(vectors)
    ]
    client.stream(library, lines)
    for number in range(20):
        query = random.normal(size=8).astype(np.float32)
        allowed = [n for n in range(300) if n % 7 in (1, 4) or n > 280]
        wanted = sorted(allowed, key=lambda n: (-float(vectors[n] @ query), n))[:10]
        found = client.search(
            library,
            vector=query.tolist(),
            filter={"$or": [{"n": {"$in": [1, 4]}}, {"m": {"$gt": 280}}]},
            exact=number % 2 == 0,
        )
        assert ids(found) == [f"d{n}" for n in wanted]


def test_quantised_library_is_found_exactly_and_kept_over_a_restart(serve: Serve) -> None:
    random = np.random.default_rng(9)
    vectors = random.normal(size=(600, 16)).astype(np.float32)
    server = serve(
        search__exact_rows=64,
        search__seal_rows=128,
        search__settle=0.05,
        search__snapshot_every=0.1,
    )
    with Client(server.url) as client:
        library: str = client.create_library(
            "small", embedder="none", dimension=16, quantization="int8"
        )["id"]
        lines = [
            {"id": f"d{n}", "chunks": [{"vector": vector.tolist()}]}
            for n, vector in enumerate(vectors)
        ]
        client.stream(library, lines)

        def built() -> bool:
            index = client.http.get(f"/v1/libraries/{library}").json()["index"]
            return bool(index["segments"]) and index["head_rows"] < 128

        def check() -> None:
            found = 0
            for query in vectors[:40]:
                wish = {"vector": query.tolist(), "k": 5}
                exact = client.search(library, exact=True, **wish)["results"]
                assert exact[0]["score"] == pytest.approx(1, abs=1e-6)
                near = client.search(library, **wish)["results"]
                scores = {hit["document_id"]: hit["score"] for hit in exact}
                assert all(
                    hit["score"] == scores.get(hit["document_id"], hit["score"]) for hit in near
                )
                found += len({hit["document_id"] for hit in near} & set(scores))
            assert found >= 0.95 * 200

        eventually(built, "segments to be built")
        check()
        server.stop()
        server.start()
        eventually(built, "the saved segments")
        check()
