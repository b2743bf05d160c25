"""Live searches over server-sent events, on real servers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import invariants
import pytest
from live.reader import ShownHits
from server.client import Client, Json
from server.live_client import TWO_D, LiveSearch, at, document
from server.running import Server, eventually

Serve = Callable[..., Server]

QUICK: dict[str, Any] = {"feeds__progress": 0.2, "feeds__heartbeat": 0.2}


def ids(search: LiveSearch | ShownHits) -> list[str]:
    shown = search.shown if isinstance(search, LiveSearch) else search
    return [hit["document_id"] for hit in shown.hits]


def reaches(told: str | None, cursor: str) -> bool:
    """Whether what was told includes that write; the log may have gone on about other things."""
    return told is not None and invariants.position(told) >= invariants.position(cursor)


def agrees(client: Client, library: str, search: LiveSearch, query: Json) -> None:
    invariants.live_shows_what_is_there(client, library, search.shown.hits, query)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("live") / "data", **QUICK) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def library(client: Client) -> str:
    id: str = client.create_library(**TWO_D)["id"]
    return id


def test_snapshot_then_what_enters_changes_and_leaves(
    server: Server, client: Client, library: str
) -> None:
    client.put(library, "a", document(0.1))
    client.put(library, "b", document(0.2))
    query = {"vector": at(0), "k": 2}
    with LiveSearch(server.url, library, query) as search:
        first = search.hear()
        assert (first.event, first.id) == ("snapshot", None)
        ready = search.hear()
        assert ready.event == "ready"
        assert ready.id == ready.data["cursor"]
        assert ids(search) == ["a", "b"]

        written = client.put(library, "c", document(0.05))
        left, entered = search.hear(), search.hear()
        assert left.event == "leave"
        assert left.id is None
        assert left.data["more"] is True
        assert (left.data["hit"]["document_id"], left.data["reason"]) == ("b", "outranked")
        assert left.data["hit"]["rank"] == 2
        assert entered.event == "enter"
        assert reaches(entered.id, written["cursor"])
        assert entered.data["hit"]["rank"] == 1
        assert entered.data["hit"]["text"] == "at 0.050"
        assert ids(search) == ["c", "a"]

        client.http.patch(f"/v1/libraries/{library}/documents/a", json={"title": "A"})
        updated = search.hear()
        assert (updated.event, updated.data["hit"]["title"]) == ("update", "A")

        moved = client.put(library, "a", document(0.01))
        updated = search.hear()
        assert (updated.event, updated.data["hit"]["rank"]) == ("update", 1)
        assert reaches(updated.data["cursor"], moved["cursor"])

        client.delete(library, "c")
        left, entered = search.hear(), search.hear()
        assert (left.data["hit"]["document_id"], left.data["reason"]) == ("c", "deleted")
        assert (entered.event, entered.data["hit"]["document_id"]) == ("enter", "b")
        agrees(client, library, search, query)
        assert search.shown.unknown == 0


def test_a_threshold_lets_everything_in_that_reaches_it(
    server: Server, client: Client, library: str
) -> None:
    query = {"vector": at(0), "score_threshold": 0.9}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        assert search.shown.hits == []
        for number in range(30):
            cursor = client.put(library, f"d{number}", document(0.01 * number))["cursor"]
        cursor = client.put(library, "far", document(2))["cursor"]
        search.until_at(cursor)
        assert len(search.shown.hits) == 30
        search.until_at(client.put(library, "d7", document(1.5))["cursor"])
        assert search.shown.reasons[-1] == ("d7#0", "no_longer_matches")


def test_a_filter_is_asked_again_when_metadata_changes(
    server: Server, client: Client, library: str
) -> None:
    client.put(library, "a", document(0.1, year=2020))
    client.put(library, "b", document(0.2, year=2026))
    query = {"vector": at(0), "k": 5, "filter": {"year": {"$gte": 2025}}}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        assert ids(search) == ["b"]
        patch = f"/v1/libraries/{library}/documents/"
        cursor = client.http.patch(patch + "a", json={"metadata": {"year": 2030}}).json()["cursor"]
        search.until_at(cursor)
        assert ids(search) == ["a", "b"]
        cursor = client.http.patch(patch + "b", json={"metadata": {"year": 1999}}).json()["cursor"]
        search.until_at(cursor)
        assert ids(search) == ["a"]
        assert search.shown.reasons == [("b#0", "no_longer_matches")]


def test_by_get_and_by_text_as_a_browser_asks(server: Server, client: Client) -> None:
    library = client.create_library()["id"]
    client.put(library, "moon", {"text": "The moon pulls the sea", "metadata": {"n": 1}})
    client.put(library, "bread", {"text": "Bread is baked from flour", "metadata": {"n": 1}})
    params = {
        "query": "what moves the sea?",
        "k": "1",
        "filter": '{"n":1}',
        "include": "distance, vector",
        "group_by": "document",
    }
    with LiveSearch(server.url, library, params, method="GET") as search:
        assert search.response.headers["content-type"].startswith("text/event-stream")
        assert search.response.headers["x-accel-buffering"] == "no"
        search.until("ready")
        (hit,) = search.shown.hits
        assert hit["document_id"] == "moon"
        assert len(hit["vector"]) == 256
        assert hit["distance"] == pytest.approx(1 - hit["score"])


def test_what_nothing_matches_moves_on_with_progress(
    server: Server, client: Client, library: str
) -> None:
    query = {"vector": at(0), "k": 3, "score_threshold": 0.99}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        cursor = client.put(library, "far", document(3))["cursor"]
        progress = search.until("progress")
        assert progress.id == progress.data["cursor"]
        assert reaches(progress.id, cursor)


@pytest.mark.parametrize("limit", [{"k": 3}, {"score_threshold": 0.5}])
def test_a_dropped_search_is_resumed_by_difference(
    server: Server, client: Client, library: str, limit: Json
) -> None:
    for number in range(10):
        client.put(library, f"d{number}", document(0.1 * number))
    query = {"vector": at(0), **limit}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        last_id, shown = search.last_id, search.shown
    client.delete(library, "d0")
    client.put(library, "new", document(0.05))
    client.put(library, "d1", document(1.4))
    cursor = client.put(library, "d5", document(0.15))["cursor"]
    with LiveSearch(server.url, library, query, last_id=last_id, shown=shown) as search:
        events: list[str] = []
        while not events or events[-1] != "ready":
            events.append(search.hear().event)
        assert "snapshot" not in events
        assert "reset" not in events
        assert reaches(search.last_id, cursor)
        agrees(client, library, search, query)
    with LiveSearch(server.url, library, query, last_id=cursor, shown=shown) as search:
        assert search.hear().event == "ready", "nothing has changed"


def test_a_cursor_that_cannot_be_resumed_gives_reset_and_snapshot(
    serve: Serve, tmp_path: Any
) -> None:
    server = serve(live__resume_changes=3, **QUICK)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        old = client.put(library, "a", document(0))["cursor"]
        for number in range(5):
            client.put(library, f"d{number}", document(number))
        query = {"vector": at(0), "k": 3}
        for cursor, reason in ((old, "too_far"), ("abcdef123456.7", "other_log")):
            with LiveSearch(server.url, library, query, last_id=cursor) as search:
                reset = search.hear()
                assert reset.event == "reset"
                assert (reset.data["code"], reset.data["reason"]) == ("cursor_expired", reason)
                assert search.hear().event == "snapshot"
                search.until("ready")
                agrees(client, library, search, query)


def test_of_more_than_a_set_holds_what_comes_at_once_is_not_forgotten(
    server: Server, client: Client, library: str
) -> None:
    """Once all that was kept is deleted, what was left out when it came moves up."""
    query = {"vector": at(0), "k": 10}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        documents = [{"id": f"d{number}", **document(0.01 * number)} for number in range(100)]
        path = f"/v1/libraries/{library}/documents"
        client.http.post(f"{path}/batch", json={"documents": documents}).raise_for_status()
        nearest = [f"d{number}" for number in range(60)]
        gone = client.http.post(f"{path}/delete", json={"ids": nearest}).raise_for_status()
        search.until_at(gone.json()["cursor"])
        assert ids(search) == [f"d{number}" for number in range(60, 70)]
        agrees(client, library, search, query)


def test_resumed_on_a_new_library_of_the_same_name_nothing_of_the_old_one_stays(
    server: Server, client: Client
) -> None:
    query = {"vector": at(0), "k": 3}
    client.create_library(**TWO_D, name="notes")
    client.put("notes", "old", document(0))
    with LiveSearch(server.url, "notes", query) as search:
        search.until("ready")
        last_id, shown = search.last_id, search.shown
        client.http.delete("/v1/libraries/notes").raise_for_status()
        client.create_library(**TWO_D, name="notes")
        client.put("notes", "new", document(1))
        assert search.until("error").data["code"] == "library_not_found"
    with LiveSearch(server.url, "notes", query, last_id=last_id, shown=shown) as search:
        reset = search.hear()
        assert (reset.event, reset.data["reason"]) == ("reset", "other_library")
        search.until("ready")
        agrees(client, "notes", search, query)


def test_resumed_over_a_restart(serve: Serve) -> None:
    server = serve(**QUICK)
    query = {"vector": at(0), "k": 4, "filter": {"ok": True}}
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        for number in range(20):
            client.put(library, f"d{number}", document(0.1 * number, ok=number % 2 == 0))
        search = LiveSearch(server.url, library, query)
        search.until("ready")
        server.stop()
        goodbye = search.hear()
        assert goodbye.event == "goodbye"
        assert goodbye.data["reason"] == "stopping"
        assert goodbye.data["cursor"] == search.last_id
        search.close()
    server.start()
    with Client(server.url) as client:
        client.delete(library, "d0")
        client.put(library, "d9", document(0.02, ok=True))
        again = LiveSearch(server.url, library, query, last_id=search.last_id, shown=search.shown)
        with again:
            again.until("ready")
            agrees(client, library, again, query)


def test_a_watch_on_one_server_sees_the_writes_of_another(tmp_path: Any) -> None:
    data = tmp_path / "data"
    with (
        Server(data, **QUICK) as one,
        Server(data, **QUICK) as two,
        Client(one.url) as writer,
        Client(two.url) as other,
    ):
        library = writer.create_library(**TWO_D)["id"]
        query = {"vector": at(0.3), "k": 5}
        randomly = random.Random(1)
        with LiveSearch(two.url, library, query) as search:
            search.until("ready")
            for number in range(60):
                client = writer if number % 3 else other
                id = f"d{randomly.randrange(12)}"
                if randomly.random() < 0.3 and client.get(library, id) is not None:
                    cursor = client.delete(library, id)["cursor"]
                else:
                    cursor = client.put(library, id, document(randomly.random()))["cursor"]
            search.until_at(cursor)
            agrees(writer, library, search, query)
            assert search.shown.unknown == 0
        eventually(lambda: statistics(other)["watches"] == 0, "the watch to be let go")


def test_a_deleted_library_ends_its_live_searches(
    server: Server, client: Client, library: str
) -> None:
    with LiveSearch(server.url, library, {"vector": at(0)}) as search:
        search.until("ready")
        client.http.delete(f"/v1/libraries/{library}")
        error = search.hear()
        assert (error.event, error.data["code"]) == ("error", "library_not_found")
        with pytest.raises(StopIteration):
            search.hear()


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 422, "invalid_query"),
        ({"query": "x", "vector": [1, 0]}, 422, "invalid_query"),
        ({"vector": [1, 0], "k": 0}, 422, "invalid_query"),
        ({"vector": [1, 0], "mode": "hybrid"}, 422, "mode_not_live"),
        ({"query": "x", "mode": "keyword"}, 422, "mode_not_live"),
        ({"vector": [1, 0], "mode": "telepathy"}, 422, "invalid_query"),
        ({"vector": [1, 0, 0]}, 422, "dimension_mismatch"),
        ({"vector": [1, 0], "filter": {"a": {"$near": 1}}}, 422, "invalid_filter"),
        ({"vector": [1, 0], "include": ["smell"]}, 422, "invalid_query"),
        ({"vector": [1, 0], "coalesce_ms": -1}, 422, "invalid_query"),
        ({"vector": [1, 0], "hightlight": True}, 422, "unknown_field"),
    ],
)
def test_a_wrong_query_is_a_problem_not_a_stream(
    client: Client, library: str, query: Json, status: int, code: str
) -> None:
    response = client.http.post(f"/v1/libraries/{library}/search/live", json=query)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_cursor_that_is_none_is_a_problem(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/search/live"
    response = client.http.post(path, json={"vector": at(0)}, params={"after": "yesterday"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_cursor")
    response = client.http.get("/v1/libraries/none/search/live", params={"query": "x"})
    assert (response.status_code, response.json()["code"]) == (404, "library_not_found")


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"kk": "3"}, 422, "invalid_parameter"),
        ({"group_by": "chunk"}, 422, "invalid_parameter"),
        ({"k": "0"}, 422, "invalid_query"),
        ({"vector": "[1,"}, 422, "invalid_query"),
        ({"vector": "1,2"}, 422, "invalid_query"),
        ({"filter": "{"}, 422, "invalid_filter"),
        ({"filter": "[]"}, 422, "invalid_filter"),
        ({"include": "vector, text"}, 422, "invalid_query"),
    ],
)
def test_parameters_that_are_wrong_are_refused(
    client: Client, library: str, given: dict[str, str], status: int, code: str
) -> None:
    path = f"/v1/libraries/{library}/search/live"
    response = client.http.get(path, params={"vector": "[1,0]", **given})
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_as_many_are_open_as_the_settings_allow(serve: Serve) -> None:
    server = serve(live__max_watches_per_library=2, **QUICK)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        query = {"vector": at(0)}
        with LiveSearch(server.url, library, query) as one:
            one.until("ready")
            with LiveSearch(server.url, library, query) as two:
                two.until("ready")
                told = statistics(client)
                assert (told["watches"], told["standing_queries"]) == (2, 1)
                response = client.http.post(f"/v1/libraries/{library}/search/live", json=query)
                assert (response.status_code, response.json()["code"]) == (429, "too_many_watches")
        eventually(lambda: statistics(client)["watches"] == 0, "the watches to be let go")
        assert statistics(client)["kept_hits"] == 0


def statistics(client: Client) -> Json:
    told: Json = client.http.get("/v1/live/statistics").json()
    return told


def test_a_reader_that_sleeps_is_told_the_difference_not_the_story(
    server: Server, client: Client, library: str
) -> None:
    query = {"vector": at(0), "k": 50}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        writes = 600
        for number in range(writes):
            large = {"vector": at(0.001 * (writes - number)), "text": "x" * 30_000}
            cursor = client.put(library, f"d{number % 80}", {"chunks": [large]})["cursor"]
        groups = 0
        while search.last_id is None or not reaches(search.last_id, cursor):
            groups += search.hear().id is not None
        assert groups < writes
        agrees(client, library, search, query)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_a_quantised_library_is_watched_by_its_exact_scores(
    server: Server, client: Client, metric: str
) -> None:
    library = client.create_library(**TWO_D, metric=metric, quantization="int8")["id"]
    query = {"vector": at(0.5), "k": 7}
    with LiveSearch(server.url, library, query) as search:
        search.until("ready")
        for number in range(40):
            cursor = client.put(library, f"d{number}", document(0.03 * number))["cursor"]
        search.until_at(cursor)
        agrees(client, library, search, query)
