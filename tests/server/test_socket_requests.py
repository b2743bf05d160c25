"""Requests over a WebSocket: every action, its errors, and many of them at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from server.client import Client, Json
from server.running import Server
from server.socket_client import BareSocket, Socket, frame_of, socket_url
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

Serve = Callable[..., Server]


@pytest.fixture
def ws(shared: Server, library: str) -> Iterator[Socket]:
    with Socket(shared.url, library) as socket:
        yield socket


# ── The handshake ───────────────────────────────────────────────────────────────────────────────


def test_welcome_says_who_and_where_and_what_is_allowed(ws: Socket, library: str) -> None:
    assert ws.connection.subprotocol == "headwater.v1"
    welcome = ws.welcome
    assert (welcome["type"], welcome["event"]) == ("system", "welcome")
    assert welcome["library_id"] == library
    assert welcome["limits"]["watches"] >= 2_500
    assert welcome["limits"]["in_flight"] > 1
    assert welcome["connection_id"]
    assert welcome["cursor"]


@pytest.mark.parametrize("name", ["a name with spaces & more", "50%41", "a%2Fb", "岸"])
def test_a_library_is_found_by_name_and_no_subprotocol_is_needed(
    client: Client, shared: Server, name: str
) -> None:
    made = client.create_library(name)
    with Socket(shared.url, made["name"], subprotocols=None) as ws:
        assert ws.welcome["library_id"] == made["id"]
        assert ws.connection.subprotocol is None
        ws.ask("ping")


def test_unknown_subprotocols_are_refused_with_the_known_one(shared: Server, library: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Socket(shared.url, library, subprotocols=["graphql-ws"])
    response = refused.value.response
    assert response.status_code == 400
    problem = json.loads(response.body)
    assert (problem["code"], problem["known"]) == ("unknown_subprotocol", ["headwater.v1"])
    with Socket(shared.url, library, subprotocols=["graphql-ws", "headwater.v1"]) as ws:
        assert ws.connection.subprotocol == "headwater.v1"


def test_pages_of_other_sites_may_not_connect(serve: Serve) -> None:
    server = serve(websocket__origins="https://*.example.org, https://one.example.com")
    with Client(server.url) as client:
        library = client.create_library()["id"]
    own = server.url
    for origin in (
        own,
        "http://localhost:3000",
        "https://a.example.org",
        "https://one.example.com",
    ):
        with Socket(server.url, library, origin=origin) as ws:
            ws.ask("ping")
    for origin in ("https://example.com", "null", "https://example.org.evil.net"):
        with pytest.raises(InvalidStatus) as refused:
            Socket(server.url, library, origin=origin)
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body)["code"] == "origin_refused"


def test_a_library_that_is_not_there_is_said_on_the_socket(shared: Server) -> None:
    with connect(socket_url(shared.url, "no-such"), proxy=None) as connection:
        frame = json.loads(connection.recv())
        assert (frame["type"], frame["error"]["code"]) == ("error", "library_not_found")
        assert frame["error"]["status"] == 404
    assert connection.close_code == 4404


def test_a_path_without_a_socket_is_not_found(shared: Server) -> None:
    for path in ("/v1/nothing", "/v1/libraries"):
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws{shared.url.removeprefix('http')}{path}", proxy=None),
        ):
            raise AssertionError(f"{path} has a socket")
        assert refused.value.response.status_code == 404
        problem = json.loads(refused.value.response.body)
        assert (problem["code"], path in problem["detail"]) == ("no_such_route", True)


def test_a_plain_request_is_told_to_upgrade(client: Client, library: str) -> None:
    response = client.http.get(f"/v1/libraries/{library}/ws")
    assert response.status_code == 426
    assert response.json()["code"] == "upgrade_required"


def test_a_broken_handshake_is_a_problem(shared: Server, library: str) -> None:
    with BareSocket(shared.url, library, handshake=False) as bare:
        bare.send(
            f"GET /v1/libraries/{library}/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"}"):
            answer += bare.socket.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "invalid_handshake"


def test_sockets_beyond_the_limit_are_told_to_come_later(serve: Serve) -> None:
    server = serve(websocket__max_sockets=2)
    with Client(server.url) as client:
        library = client.create_library()["id"]
    with Socket(server.url, library) as one, Socket(server.url, library):
        with connect(socket_url(server.url, library), proxy=None) as third:
            assert json.loads(third.recv())["error"]["code"] == "overloaded"
        assert third.close_code == 1013
        one.ask("ping")


# ── Documents ───────────────────────────────────────────────────────────────────────────────────


def test_documents_are_added_read_changed_and_deleted(
    ws: Socket, client: Client, library: str
) -> None:
    added = ws.ask("add", id="note", title="Tides", text="The moon pulls.", metadata={"year": 1})
    assert (added["status"], added["version"]) == ("created", 1)
    assert ws.ask("get", id="note") == client.get(library, "note")
    with_vectors = ws.ask("get", id="note", include=["vectors"])
    assert len(with_vectors["chunks"][0]["vector"]) == 256

    assert ws.ask("add", id="note", title="Tides", text="The moon pulls.", metadata={"year": 1})[
        "status"
    ] == ("unchanged")
    assert ws.fail("add", id="note", text="other")["code"] == "document_exists"

    patched = ws.ask("update", id="note", title="Ebb", metadata={"year": None, "sea": True})
    assert patched["version"] == 2
    assert ws.ask("get", id="note")["metadata"] == {"sea": True}
    replaced = ws.ask("update", id="note", texts=["one", "two"], tags=["x"])
    assert (replaced["version"], replaced["num_chunks"]) == (3, 2)
    now = client.get(library, "note")
    assert now is not None
    assert (now["texts"], now["metadata"]) == (["one", "two"], {"tags": ["x"]})
    assert "title" not in now

    error = ws.fail("update", id="note", text="three", if_version=2)
    assert (error["code"], error["status"], error["version"]) == ("version_mismatch", 412, 3)
    assert ws.fail("delete", id="note", if_version=1)["code"] == "version_mismatch"
    gone = ws.ask("delete", id="note", if_version=3)
    assert gone["id"] == "note"
    assert ws.fail("get", id="note")["code"] == "document_not_found"
    assert client.get(library, "note") is None


def test_a_document_without_id_gets_one_and_is_searchable_at_once(ws: Socket) -> None:
    added = ws.ask("add", text="a lighthouse keeper's log")
    found = ws.ask("search", query="lighthouse", k=1)
    assert found["results"][0]["document_id"] == added["id"]
    durable = ws.ask("add", text="a second lighthouse", wait="durable")
    assert durable["status"] == "created"


@pytest.mark.parametrize(
    ("action", "data", "code"),
    [
        ("add", {"text": "x", "no_such": 1}, "unknown_field"),
        ("add", {"id": "x"}, "invalid_document"),
        ("add", {"text": 5}, "invalid_document"),
        ("add", {"text": "x", "wait": "never"}, "invalid_document"),
        ("add", {"chunks": [{"vector": [1, 2]}]}, "dimension_mismatch"),
        ("update", {"text": "x"}, "invalid_document"),
        ("update", {"id": "x"}, "invalid_document"),
        ("update", {"id": "x", "title": "t", "tags": ["a"]}, "invalid_document"),
        ("update", {"id": "x", "metadata": None}, "invalid_document"),
        ("update", {"id": "missing", "title": "t"}, "document_not_found"),
        ("update", {"id": "", "title": "t"}, "invalid_document"),
        ("delete", {}, "invalid_input"),
        ("delete", {"id": "missing"}, "document_not_found"),
        ("get", {"id": "x", "include": ["everything"]}, "invalid_query"),
        ("search", {}, "invalid_query"),
        ("search", {"query": "x", "k": 0}, "invalid_query"),
        ("search", {"query": "x", "query_text": "y"}, "invalid_query"),
        ("search", {"query": "x", "filter": {"a": {"$no": 1}}}, "invalid_filter"),
        ("search", {"query": "x", "filter": []}, "invalid_filter"),
        ("search", {"vector": [1.0]}, "dimension_mismatch"),
        ("search", {"query": "x", "min_cursor": "nonsense"}, "invalid_cursor"),
        ("subscribe", {"types": "no.such"}, "invalid_query"),
        ("subscribe", {"types": ["no.such"]}, "invalid_query"),
        ("subscribe", {"filter": {"a": {"$no": 1}}}, "invalid_filter"),
        ("subscribe", {"filter": '{"a":1}'}, "invalid_filter"),
        ("watch", {"query": "x", "filter": 5}, "invalid_filter"),
        ("subscribe", {"after": "nonsense"}, "invalid_cursor"),
        ("subscribe", {"after": "0123456789ab.5"}, "cursor_expired"),
        ("subscribe", {"include": ["chunks"]}, "invalid_query"),
        ("subscribe", {"max_unacked": 0}, "invalid_query"),
        ("subscribe", {"max_unacked": 1_000_000}, "invalid_query"),
        ("unsubscribe", {"subscription_id": "subscription-9"}, "subscription_not_found"),
        ("ack", {"subscription_id": "subscription-9", "cursor": "x"}, "subscription_not_found"),
        ("watch", {}, "invalid_query"),
        ("watch", {"query": "x", "k": 0}, "invalid_query"),
        ("unwatch", {"watch_id": "watch-9"}, "watch_not_found"),
        ("ping", {"x": 1}, "unknown_field"),
        ("sing", {}, "unknown_action"),
    ],
)
def test_a_wrong_request_is_answered_with_the_code_of_http(
    ws: Socket, action: str, data: Json, code: str
) -> None:
    error = ws.fail(action, **data)
    assert error["code"] == code, error
    assert error["title"]
    assert error["detail"]
    assert 400 <= error["status"] < 500
    assert error["retryable"] is False
    ws.ask("ping")


# ── Search ──────────────────────────────────────────────────────────────────────────────────────


def test_search_answers_as_http_does(ws: Socket, client: Client, library: str) -> None:
    client.stream(library, ({"id": f"d{n}", "text": f"story {n} of the sea"} for n in range(30)))
    for body in (
        {"query": "sea story", "k": 5},
        {"query": "sea story", "k": 5, "mode": "vector", "include": ["vector", "distance"]},
        {"query": "story 7", "mode": "keyword", "highlight": True},
        {"query": "sea", "group_by": "document", "k": 3},
        {"like": ["d1"], "k": 4},
        {"query": "sea", "k": 3, "filter": {"year": 1}},
    ):
        here = ws.ask("search", **body)
        there = client.http.post(f"/v1/libraries/{library}/search", json=body).json()
        assert here.pop("took_ms") >= 0
        there.pop("took_ms")
        assert here == there
    assert ws.ask("search", query_text="sea", k=2)["results"]
    explained = ws.ask("search", query="sea", k=1, explain=True)
    assert explained["explanation"]


def test_large_results_come_in_parts_that_make_one_answer(
    ws: Socket, client: Client, library: str
) -> None:
    client.stream(library, ({"id": f"d{n}", "text": f"wave number {n}"} for n in range(700)))
    body = {"query": "wave", "mode": "vector", "k": 600}
    whole = client.http.post(f"/v1/libraries/{library}/search", json=body).json()
    response = ws.response(ws.send("search", body))
    assert response["parts"] >= 3
    found = response["data"]
    assert found["results"] == whole["results"]
    assert found["next"] == whole["next"]
    more = ws.ask("search", **body, after=found["next"])
    assert [hit["rank"] for hit in more["results"]] == list(range(601, 701))
    assert "next" not in more


def test_parts_are_cut_by_size_too(serve: Serve) -> None:
    server = serve(websocket__part_bytes=4096)
    with Client(server.url) as client:
        library = client.create_library()["id"]
        client.stream(library, ({"id": f"d{n}", "text": "x" * 900} for n in range(20)))
        with Socket(server.url, library) as ws:
            response = ws.response(ws.send("search", {"query": "x", "k": 20, "mode": "vector"}))
            assert response["parts"] >= 5
            assert len(response["data"]["results"]) == 20


def test_a_search_that_is_not_read_to_its_end_holds_up_no_other_socket(
    shared: Server, client: Client, library: str
) -> None:
    client.stream(library, ({"id": f"d{n}", "text": "y" * 1000} for n in range(3000)))
    with BareSocket(shared.url, library, receive_buffer=4096) as stuck:
        for number in range(20):
            stuck.ask("search", number, query="y", k=3000, mode="vector")
        with Socket(shared.url, library) as other:
            other.ask("search", query="y", k=5)
            other.ask("add", text="quick")


# ── Many at once ────────────────────────────────────────────────────────────────────────────────


def test_many_requests_are_answered_by_their_ids(ws: Socket) -> None:
    ids = [ws.send("add", {"id": f"d{n}", "text": f"text {n}"}, id=f"r{n}") for n in range(200)]
    pings = [ws.send("ping", id=n) for n in range(200)]
    for n in reversed(range(200)):
        assert ws.response(ids[n])["data"]["id"] == f"d{n}"
        assert ws.response(pings[n])["success"]
    assert not ws.waiting


def test_answers_come_as_they_are_ready(ws: Socket) -> None:
    log_id, _, position = ws.welcome["cursor"].partition(".")
    soon = f"{log_id}.{int(position) + 3}"
    waiting = ws.send("search", {"query": "text", "min_cursor": soon})
    for number in range(3):
        quick = ws.send("add", {"text": f"text {number}"})
        first = ws.next()
        assert first["request_id"] == quick
    assert ws.response(waiting)["data"]["results"]


def test_the_id_of_a_request_under_way_is_refused_and_free_afterwards(
    shared: Server, client: Client, library: str
) -> None:
    client.stream(library, ({"id": f"d{n}", "text": f"text {n}"} for n in range(1000)))
    search = {
        "type": "request",
        "action": "search",
        "request_id": "same",
        "data": {"query": "text", "mode": "vector", "k": 1000},
    }
    with BareSocket(shared.url, library) as bare:
        bare.json()
        # In one piece, or the first may be over before the second comes.
        bare.send(2 * frame_of(json.dumps(search).encode()))
        found = [bare.json()]
        while "error" not in found[-1] and not found[-1]["last"]:
            found.append(bare.json())
        (refused,) = [frame for frame in found if "error" in frame]
        assert refused["error"]["code"] == "duplicate_request"
        while "cursor" not in found[-1].get("data", {}):
            found.append(bare.json())
        for id in ("same", 1, "1"):  # the last two are different
            bare.ask("ping", id)
            answer = bare.json()
            assert answer["success"]
            assert answer["request_id"] == id


def test_requests_beyond_the_rate_are_refused_and_then_taken_again(serve: Serve) -> None:
    server = serve(websocket__requests_per_second=20, websocket__burst=5)
    with Client(server.url) as client:
        library = client.create_library()["id"]
    with Socket(server.url, library) as ws:
        ids = [ws.send("ping") for _ in range(30)]
        responses = [ws.response(id) for id in ids]
        refused = [response["error"] for response in responses if not response["success"]]
        assert all(response["success"] for response in responses[:5])
        assert refused
        for error in refused:
            assert (error["code"], error["status"]) == ("rate_limited", 429)
            assert error["retryable"]
            assert 1 <= error["retry_after_ms"] <= 50
        assert sum(response["success"] for response in responses) > 5, "tokens come back"


def test_requests_beyond_the_bound_wait_and_are_all_answered(serve: Serve) -> None:
    server = serve(websocket__in_flight=2)
    with Client(server.url) as client:
        library = client.create_library()["id"]
        with Socket(server.url, library) as ws:
            ids = [ws.send("add", {"id": f"d{n}", "text": f"t {n}"}) for n in range(100)]
            assert all(ws.response(id)["success"] for id in ids)
        statistics = client.http.get("/v1/websockets/statistics").json()
        assert statistics["requests"] == {"add": 100}


def test_a_write_whose_client_leaves_at_once_is_still_finished(
    shared: Server, client: Client, library: str
) -> None:
    with client.events(library=library, types="document.added") as events:
        next(events)
        with BareSocket(shared.url, library) as bare:
            bare.json()
            bare.send(
                frame_of(
                    b'{"type":"request","action":"add","request_id":1,'
                    b'"data":{"id":"last","text":"words"}}'
                )
            )
            bare.send(frame_of(b"\x03\xe8", 8))
            assert bare.close_code() == 1000
        (event,) = events.take(1)
        assert event["data"]["document_id"] == "last"


def test_statistics_tell_what_was_asked(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library()["id"]
        with Socket(server.url, library) as ws:
            ws.ask("add", id="a", text="x")
            ws.fail("get", id="b")
            subscription = ws.ask("subscribe", after="beginning")["subscription_id"]
            ws.events(subscription, 2)
            watch = ws.ask("watch", query="x")["watch_id"]
            ws.live(watch, 2)
            now = client.http.get("/v1/websockets/statistics").json()
        assert now["running"] is True
        assert (now["connections"], now["subscriptions"], now["watches"]) == (1, 1, 1)
        assert now["requests"] == {"add": 1, "get": 1, "subscribe": 1, "watch": 1}
        assert (now["total_requests"], now["total_errors"]) == (4, 1)
        assert now["errors"] == {"document_not_found": 1}
        assert (now["total_events"], now["total_live_events"]) == (2, 2)
        assert now["bytes_received"] > 200
        assert now["bytes_sent"] > 1000
        assert now["requests_in_flight"] == now["waiting_to_read"] == now["pending_events"] == 0
