"""Subscriptions over a WebSocket: the same events as the streams, exactly once, resumable."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import invariants
import pytest
from server.client import Client, Json
from server.pump import Pump
from server.running import Server, eventually
from server.socket_client import BareSocket, Socket, frame_of, sockets

Serve = Callable[..., Server]

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}


def document(number: int, **metadata: Any) -> Json:
    return {"chunks": [{"vector": [1, number]}], "metadata": metadata}


def documents(prefix: str, count: int) -> Iterator[Json]:
    return ({"id": f"{prefix}-{n}", "chunks": [{"vector": [n, 1]}]} for n in range(count))


@pytest.fixture
def flat(client: Client) -> str:
    """A library whose documents bring vectors."""
    id: str = client.create_library(**TWO_D)["id"]
    return id


@pytest.fixture
def ws(shared: Server, flat: str) -> Iterator[Socket]:
    with Socket(shared.url, flat) as socket:
        yield socket


def test_events_are_those_of_the_log_of_this_library(ws: Socket, client: Client, flat: str) -> None:
    other = client.create_library(**TWO_D)["id"]
    subscribed = ws.ask("subscribe")
    for number in range(10):
        client.put(flat, f"d{number}", document(number))
        client.put(other, f"d{number}", document(number))
    client.delete(flat, "d3")
    told = ws.events(subscribed["subscription_id"], 11)
    assert told == client.all_events(library_id=flat, after=subscribed["cursor"])


def test_types_filter_include_and_format_are_as_in_the_stream(
    ws: Socket, client: Client, flat: str
) -> None:
    wishes: list[tuple[Json, Json]] = [
        ({"types": "document.deleted"}, {"types": "document.deleted"}),
        ({"types": ["document.*", "chunk.added"]}, {"types": "document.*,chunk.added"}),
        ({"filter": {"year": {"$gte": 5}}}, {"filter": '{"year":{"$gte":5}}'}),
        ({"include": ["document"]}, {"include": "document"}),
        ({"format": "cloudevents"}, {"format": "cloudevents"}),
    ]
    ids = [ws.ask("subscribe", **wish)["subscription_id"] for wish, _ in wishes]
    assert len(set(ids)) == len(ids)
    start = ws.welcome["cursor"]
    for number in range(10):
        client.put(flat, f"d{number}", document(number, year=number))
    client.put(flat, "d9", {"chunks": [{"vector": [1, 1]}, {"vector": [1, 2]}]})
    client.delete(flat, "d1")
    for id, (_, params) in zip(ids, wishes, strict=True):
        wanted = client.all_events(library_id=flat, after=start, **params)
        told = ws.events(id, len(wanted))
        if "include" not in params:  # the document is that of the moment it is told in
            assert told == wanted
        else:
            assert [event["id"] for event in told] == [event["id"] for event in wanted]
            assert all("document" in event for event in told)
    assert not ws.waiting


def test_a_subscription_resumes_after_a_cursor_and_repeats_nothing(
    shared: Server, client: Client, flat: str
) -> None:
    client.stream(flat, documents("a", 500))
    whole = client.all_events(library_id=flat, types="document.*,chunk.*")
    told: list[Json] = []
    after = "beginning"
    for step in itertools.cycle((1, 7, 64, 300)):
        with Socket(shared.url, flat) as ws:
            wish = {"types": "document.*,chunk.*", "after": after}
            id = ws.ask("subscribe", **wish)["subscription_id"]
            told += ws.events(id, min(step, len(whole) - len(told)))
            after = told[-1]["id"]
        if len(told) == len(whole):
            break
    assert told == whole


def test_a_reader_at_the_head_hears_each_of_many_writes_once(
    shared: Server, client: Client, flat: str
) -> None:
    with sockets(shared.url, flat, 5) as listening:
        ids = [ws.ask("subscribe", types="document.*")["subscription_id"] for ws in listening]
        start = listening[0].welcome["cursor"]
        with ThreadPoolExecutor(6) as pool:
            hearing = [
                pool.submit(ws.events, id, 1200) for ws, id in zip(listening, ids, strict=True)
            ]
            with Pump(shared.url, flat, documents("p", 1000)) as pump:
                for number in range(200):
                    client.put(flat, f"single-{number}", document(number))
                pump.join()
            stories = [future.result(60) for future in hearing]
    whole = client.all_events(library_id=flat, types="document.*", after=start)
    assert all(story == whole for story in stories)
    invariants.events_rise(whole)


def test_nothing_comes_after_unsubscribing(ws: Socket, client: Client, flat: str) -> None:
    ids = [ws.ask("subscribe")["subscription_id"] for _ in range(2)]
    client.put(flat, "a", document(1))
    ws.events(ids[0], 1)
    ended = ws.ask("unsubscribe", subscription_id=ids[0])
    assert ended["cursor"] == client.statistics()["head"]
    assert ws.fail("unsubscribe", subscription_id=ids[0])["code"] == "subscription_not_found"
    client.put(flat, "b", document(2))
    assert [e["data"]["document_id"] for e in ws.events(ids[1], 2)] == ["a", "b"]
    ws.ask("ping")
    assert not ws.waiting


def test_a_socket_has_as_many_subscriptions_as_it_may(serve: Serve) -> None:
    server = serve(websocket__subscriptions=3, websocket__watches=2)
    with Client(server.url) as client:
        library = client.create_library()["id"]
    with Socket(server.url, library) as ws:
        ids = [ws.ask("subscribe")["subscription_id"] for _ in range(3)]
        error = ws.fail("subscribe")
        assert (error["code"], error["limit"]) == ("too_many_subscriptions", 3)
        ws.ask("unsubscribe", subscription_id=ids[1])
        ws.ask("subscribe")
        watches = [ws.ask("watch", query="x")["watch_id"] for _ in range(2)]
        error = ws.fail("watch", query="x")
        assert (error["code"], error["limit"]) == ("too_many_watches", 2)
        ws.ask("unwatch", watch_id=watches[0])
        ws.ask("watch", query="x")


def test_events_are_counted_whoever_tells_them(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        client.put(library, "before", document(0))
        with Socket(server.url, library) as ws:
            ids = [ws.ask("subscribe", after="beginning")["subscription_id"] for _ in range(2)]
            ids.append(ws.ask("subscribe", after="beginning", max_unacked=9)["subscription_id"])
            told = [ws.events(id, 2) for id in ids]
            for number in range(3):  # at the head, at first by themselves, then in a row
                client.put(library, f"d{number}", document(number))
                told += [ws.events(id, 1) for id in ids]
        sent = sum(map(len, told))
        assert sent == 3 * 5
        assert client.statistics()["total_delivered"] == sent
        assert client.http.get("/v1/websockets/statistics").json()["total_events"] == sent


# ── Acknowledging ───────────────────────────────────────────────────────────────────────────────


def test_no_more_events_come_than_are_acknowledged(ws: Socket, client: Client, flat: str) -> None:
    for number in range(30):
        client.put(flat, f"d{number}", document(number))
    wish = {"types": "document.*,chunk.*", "after": ws.welcome["cursor"], "max_unacked": 7}
    id = ws.ask("subscribe", **wish)["subscription_id"]
    told: list[Json] = []
    while len(told) < 60:
        piece = ws.events(id, min(7, 60 - len(told)))
        told += piece
        ws.ask("ping")
        assert not ws.waiting, "the window is full"
        middle = piece[len(piece) // 2]
        assert ws.ask("ack", subscription_id=id, cursor=middle["id"])["unacked"] < 7
        told += ws.events(id, min(len(piece) // 2 + 1, 60 - len(told)))
        acked = ws.ask("ack", subscription_id=id, cursor=told[-1]["id"])
        assert acked["cursor"] == told[-1]["id"]
    assert told == client.all_events(
        library_id=flat, types="document.*,chunk.*", after=ws.welcome["cursor"]
    )
    done = ws.ask("ack", subscription_id=id, cursor=told[-1]["id"])
    assert (done["unacked"], done["pending"]) == (0, 0)


def test_acknowledging_says_how_far_behind_a_subscription_is(
    ws: Socket, client: Client, flat: str
) -> None:
    id = ws.ask("subscribe", max_unacked=1)["subscription_id"]
    first = client.put(flat, "a", document(1))
    ws.events(id, 1)
    for number in range(5):
        client.put(flat, f"b{number}", document(number))
    early = ws.ask("ack", subscription_id=id, cursor=ws.welcome["cursor"])
    assert (early["unacked"], early["pending"]) == (1, 5)
    assert early["cursor"] == ws.welcome["cursor"], "what was acknowledged stays so"
    ws.ask("ack", subscription_id=id, cursor=first["cursor"])
    ws.events(id, 1)
    ahead = client.statistics()["head"]
    assert ws.fail("ack", subscription_id=id, cursor=ahead)["code"] == "invalid_cursor"
    assert ws.fail("ack", subscription_id=id, cursor="x")["code"] == "invalid_cursor"
    other = f"0123456789ab.{1}"
    assert ws.fail("ack", subscription_id=id, cursor=other)["code"] == "invalid_query"
    assert ws.ask("ack", subscription_id=id, cursor=first["cursor"])["unacked"] == 1


def test_what_ends_within_a_change_says_where_to_go_on_within_it(serve: Serve) -> None:
    server = serve()
    wish = {"types": "document.*,chunk.*", "after": "beginning"}
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        client.put(library, "d", {"chunks": [{"vector": [1, n]} for n in range(3)]})
        with Socket(server.url, library) as ws:
            ids = [ws.ask("subscribe", **wish, max_unacked=2)["subscription_id"] for _ in range(2)]
            told = [ws.events(id, 2) for id in ids]
            ended = ws.ask("unsubscribe", subscription_id=ids[0])
            assert ended["cursor"] == told[0][-1]["id"]
            id = ws.ask("subscribe", **wish | {"after": ended["cursor"]})["subscription_id"]
            assert [event["data"].get("ordinal") for event in ws.events(id, 2)] == [1, 2]
            head = client.statistics()["head"]
            server.stop()
            goodbye = ws.next(lambda f: f.get("event") == "goodbye")
            assert goodbye["subscriptions"] == {ids[1]: told[1][-1]["id"], id: head}


# ── Being slow ──────────────────────────────────────────────────────────────────────────────────


def test_a_slow_reader_falls_back_to_the_log_and_misses_nothing(serve: Serve) -> None:
    server = serve(log__ring_bytes=1 << 20, store__cache_bytes=4 << 20)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        padding = "x" * 500
        with (
            BareSocket(server.url, library, receive_buffer=4096, timeout=60) as slow,
            Socket(server.url, library) as quick,
        ):
            slow.json()
            slow.ask("subscribe", types="document.*")
            start = slow.json()["data"]["cursor"]
            id = quick.ask("subscribe", types="batch.completed")["subscription_id"]
            before = server.rss_bytes()
            count = 20_000
            client.stream(
                library,
                ({"id": f"d{n}", **document(n, padding=padding)} for n in range(count)),
                response="summary",
            )
            quick.events(id, 1)
            now = client.http.get("/v1/websockets/statistics").json()
            assert now["pending_events"] > count / 2
            assert now["slow_fallbacks"] >= 1
            assert now["waiting_to_read"] == 1
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else the system takes what it likes
                assert now["bytes_sent"] < 1 << 20
            assert server.rss_bytes() - before < 60_000_000
            heard: list[Json] = []
            while len(heard) < count:
                frame = slow.json()
                if frame["type"] == "event":
                    heard.append(frame["event"])
            slow.ask("ping", 2)
            assert slow.json()["request_id"] == 2
        assert heard == client.all_events(library_id=library, types="document.*", after=start)


def test_a_filtered_reader_is_told_how_far_it_is(serve: Serve) -> None:
    server = serve(feeds__progress=0.1)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        with Socket(server.url, library) as ws:
            deleted = ws.ask("subscribe", types="document.deleted")["subscription_id"]
            windowed = ws.ask("subscribe", types="document.deleted", max_unacked=5)
            written = client.put(library, "a", document(1))
            for id in (deleted, windowed["subscription_id"]):
                frame = ws.next(
                    lambda f, id=id: (
                        f.get("event") == "progress"  # type: ignore[misc]  # id=id
                        and id in f.get("subscription_ids", [])
                    )
                )
                assert frame["cursor"] == written["cursor"]


def test_a_reader_that_the_log_was_trimmed_past_is_told_so(serve: Serve) -> None:
    server = serve(log__retention_changes=1000, log__trim_every=0.1, log__ring_bytes=1 << 20)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        with Socket(server.url, library) as ws:
            id = ws.ask("subscribe", max_unacked=1)["subscription_id"]
            first = client.put(library, "first", document(1))
            ws.events(id, 1)
            for turn in range(3):
                client.stream(library, documents(f"t{turn}", 1500), response="summary")
            eventually(
                lambda: (
                    client.http.get("/v1/events", params={"after": first["cursor"]}).status_code
                    == 410
                ),
                "the log to be trimmed",
            )
            ws.ask("ack", subscription_id=id, cursor=first["cursor"])
            ended = ws.next(lambda f: f.get("event") == "ended")
            assert ended["subscription_id"] == id
            assert ended["error"]["code"] == "cursor_expired"
            assert ended["error"]["earliest"]
            assert ws.fail("unsubscribe", subscription_id=id)["code"] == "subscription_not_found"
            again = ws.ask("subscribe", after="beginning")
            ws.events(again["subscription_id"], 1)
            assert ws.fail("subscribe", after=first["cursor"])["code"] == "cursor_expired"


# ── The library's end, and other processes ──────────────────────────────────────────────────────


def test_a_deleted_library_ends_its_sockets_after_telling_of_it(
    shared: Server, client: Client, flat: str
) -> None:
    with Socket(shared.url, flat) as ws, Socket(shared.url, flat) as plain:
        subscription = ws.ask("subscribe")["subscription_id"]
        quiet = ws.ask("subscribe", types="batch.*")["subscription_id"]
        ws.ask("watch", vector=[1, 2])
        deleted = client.http.delete(f"/v1/libraries/{flat}").json()
        (event,) = ws.events(subscription, 1)
        assert (event["type"], event["id"]) == ("library.deleted", deleted["cursor"])
        for socket in (ws, plain):
            frame = socket.next(lambda f: f["type"] == "error")
            assert frame["error"]["code"] == "library_not_found"
            with pytest.raises(Exception, match="4410"):
                socket.next(lambda f: f["type"] != "live")
            assert socket.connection.close_code == 4410
        assert quiet != subscription


def test_the_end_of_another_library_ends_no_socket(
    shared: Server, client: Client, flat: str
) -> None:
    other = client.create_library(description=f"a copy of {flat}")["id"]
    with Socket(shared.url, flat) as ws, Socket(shared.url, other) as gone:
        client.http.delete(f"/v1/libraries/{other}")
        assert gone.next()["error"]["code"] == "library_not_found"
        ws.ask("ping")
        assert not ws.waiting


def test_two_processes_tell_the_same_on_their_sockets(serve: Serve) -> None:
    one, two = serve(), serve()
    with Client(one.url) as here, Client(two.url) as there:
        library = here.create_library(**TWO_D)["id"]
        with Socket(one.url, library) as a, Socket(two.url, library) as b:
            ids = [ws.ask("subscribe", types="document.*")["subscription_id"] for ws in (a, b)]
            a.ask("add", id="of-a", chunks=[{"vector": [1, 1]}])
            b.ask("add", id="of-b", chunks=[{"vector": [1, 2]}])
            there.put(library, "of-http", document(3))
            stories = [ws.events(id, 3) for ws, id in zip((a, b), ids, strict=True)]
            assert stories[0] == stories[1]
            assert {e["data"]["document_id"] for e in stories[0]} == {"of-a", "of-b", "of-http"}
            there.http.delete(f"/v1/libraries/{library}")
            for ws in (a, b):
                assert ws.next(lambda f: f["type"] == "error")["error"]["code"] == (
                    "library_not_found"
                )


def test_workers_of_one_server_serve_sockets_side_by_side(serve: Serve) -> None:
    server = serve(workers=2)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        with sockets(server.url, library, 8) as opened:
            ids = [ws.ask("subscribe", types="document.*")["subscription_id"] for ws in opened]
            for number, ws in enumerate(opened):
                ws.ask("add", id=f"d{number}", chunks=[{"vector": [1, number]}])
            stories = [ws.events(id, 8) for ws, id in zip(opened, ids, strict=True)]
            assert all(story == stories[0] for story in stories)
            assert server.stop() < 8
            for ws, id in zip(opened, ids, strict=True):
                goodbye = ws.next(lambda f: f.get("event") == "goodbye")
                assert goodbye["subscriptions"] == {id: stories[0][-1]["id"]}
    invariants.folder_is_sound(server.data)


def test_events_and_answers_share_a_socket_while_a_stream_comes_in(
    shared: Server, client: Client, flat: str
) -> None:
    """The socket of whoever listens to a flood still answers."""
    with Socket(shared.url, flat) as ws:
        subscription = ws.ask("subscribe", types="document.*")["subscription_id"]
        with Pump(shared.url, flat, documents("f", 5000), response="summary") as pump:
            for _ in range(50):
                ws.ask("search", vector=[1, 2], k=3)
            pump.join()
        told = ws.events(subscription, 5000)
        invariants.events_rise(told)


def test_a_message_in_frames_of_the_server_is_json_whatever_the_text(
    shared: Server, client: Client, flat: str
) -> None:
    texts = ["ünïcödé \U0001f30a", '"quotes" and \\ and \n lines', "x" * 70_000, "", "\x01\x1f"]
    with BareSocket(shared.url, flat) as bare:
        bare.json()
        bare.ask("subscribe", include=["document"])
        bare.json()
        for number, text in enumerate(texts):
            client.put(flat, f"d{number}", {"chunks": [{"vector": [1, 1], "text": text}]})
            event = bare.json()["event"]
            assert event["document"]["chunks"][0]["text"] == text
        bare.send(frame_of(json.dumps({"type": "request", "action": "ping"}).encode()))
        assert bare.json()["type"] == "error"
