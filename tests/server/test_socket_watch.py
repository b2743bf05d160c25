"""Live queries over a WebSocket. What they find is held exact elsewhere; here, how it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from server.client import Client, Json
from server.running import Server, eventually
from server.socket_client import BareSocket, Socket

Serve = Callable[..., Server]

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}


def at(x: float, y: float, **metadata: Any) -> Json:
    return {"chunks": [{"vector": [x, y]}], "metadata": metadata}


@pytest.fixture
def flat(client: Client) -> str:
    id: str = client.create_library(**TWO_D)["id"]
    return id


def names(results: list[Json]) -> list[str]:
    return [hit["document_id"] for hit in results]


class Followed:
    """The hits of a live query, kept by applying what is told."""

    def __init__(self, socket: Socket, watch: str) -> None:
        self._socket = socket
        self._watch = watch
        self.hits: dict[str, Json] = {}
        self.cursor = ""

    def until(self, wanted: Callable[[list[str]], bool]) -> None:
        """Apply whole groups of one cursor until the hits, best first, are as wanted."""
        while True:
            (frame,) = self._socket.live(self._watch, 1)
            event, data = frame["event"], frame["data"]
            if event == "snapshot":
                self.hits = {hit["chunk_id"]: hit for hit in data["results"]}
            elif event in ("enter", "update"):
                self.hits[data["hit"]["chunk_id"]] = data["hit"]
            elif event == "leave":
                self.hits.pop(data["hit"]["chunk_id"], None)
            if data.get("more"):
                continue
            self.cursor = data["cursor"]
            ranked = sorted(self.hits.values(), key=lambda hit: (-hit["score"], hit["chunk_id"]))
            if wanted(names(ranked)):
                return


def test_a_live_query_tells_its_snapshot_and_then_what_changes(
    shared: Server, client: Client, flat: str
) -> None:
    client.put(flat, "near", at(1, 0))
    client.put(flat, "far", at(0, 1))
    with Socket(shared.url, flat) as ws:
        watch = ws.ask("watch", vector=[1, 0], k=2)["watch_id"]
        snapshot, ready = ws.live(watch, 2)
        assert (snapshot["event"], ready["event"]) == ("snapshot", "ready")
        assert names(snapshot["data"]["results"]) == ["near", "far"]
        assert snapshot["data"]["cursor"] == ready["data"]["cursor"]
        client.put(flat, "middle", at(1, 1))
        leave, enter = ws.live(watch, 2)
        assert (leave["event"], enter["event"]) == ("leave", "enter")
        assert leave["data"]["reason"] == "outranked"
        assert leave["data"]["more"] is True
        assert enter["data"]["hit"]["rank"] == 2
        assert enter["data"]["cursor"] == client.statistics()["head"]
        client.delete(flat, "near")
        leave, *_ = ws.live(watch, 2)
        assert (leave["event"], leave["data"]["reason"]) == ("leave", "deleted")


def test_several_live_queries_share_a_socket_with_everything_else(
    shared: Server, client: Client, flat: str
) -> None:
    with Socket(shared.url, flat) as ws:
        watches = [
            Followed(ws, ws.ask("watch", vector=[1, n], k=5, filter={"n": n})["watch_id"])
            for n in range(20)
        ]
        subscription = ws.ask("subscribe", types="document.added")["subscription_id"]
        for n in range(20):
            ws.ask("add", id=f"d{n}", **at(1, n, n=n))
        for n, watch in enumerate(watches):
            watch.until(lambda ids, n=n: ids == [f"d{n}"])  # type: ignore[misc]  # n=n
        assert len(ws.events(subscription, 20)) == 20


def test_nothing_comes_after_unwatching(shared: Server, client: Client, flat: str) -> None:
    with Socket(shared.url, flat) as ws:
        gone, kept = (ws.ask("watch", vector=[1, 0])["watch_id"] for _ in range(2))
        _, ready = ws.live(gone, 2)
        ws.live(kept, 2)
        ended = ws.ask("unwatch", watch_id=gone)
        assert ended == {"watch_id": gone, "cursor": ready["data"]["cursor"]}
        assert ws.fail("unwatch", watch_id=gone)["code"] == "watch_not_found"
        client.put(flat, "a", at(1, 0))
        ws.live(kept, 1)
        ws.ask("ping")
        assert not [frame for frame in ws.waiting if frame["watch_id"] == gone]
        assert client.http.get("/v1/websockets/statistics").json()["watches"] == 1


def test_a_live_query_resumes_after_a_cursor_with_the_difference(
    shared: Server, client: Client, flat: str
) -> None:
    for n in range(5):
        client.put(flat, f"d{n}", at(1, n))
    with Socket(shared.url, flat) as ws:
        followed = Followed(ws, ws.ask("watch", vector=[1, 0], k=3)["watch_id"])
        followed.until(lambda ids: ids == ["d0", "d1", "d2"])
    client.delete(flat, "d1")
    client.put(flat, "new", at(1, 0.5))
    with Socket(shared.url, flat) as ws:
        watch = ws.ask("watch", vector=[1, 0], k=3, after=followed.cursor)["watch_id"]
        again = Followed(ws, watch)
        again.hits = followed.hits
        again.until(lambda ids: ids == ["d0", "new", "d2"])
        assert not [frame for frame in ws.waiting if frame.get("event") == "snapshot"]
        assert ws.fail("watch", vector=[1, 0], after="nonsense")["code"] == "invalid_cursor"


def test_what_cannot_be_kept_live_is_refused(shared: Server, library: str) -> None:
    with Socket(shared.url, library) as ws:
        for data in ({"query": "x", "mode": "keyword"}, {"query": "x", "mode": "hybrid"}):
            error = ws.fail("watch", **data)
            assert (error["code"], error["status"]) == ("mode_not_live", 422)
        text = ws.ask("watch", query_text="the sea", k=1)["watch_id"]
        ws.live(text, 2)
        ws.ask("add", id="a", text="the sea")
        assert ws.live(text, 1)[0]["data"]["hit"]["document_id"] == "a"


def test_live_queries_with_nothing_to_tell_say_how_far_they_are(serve: Serve) -> None:
    server = serve(feeds__progress=0.1)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        with Socket(server.url, library) as ws:
            ids = [ws.ask("watch", vector=[1, 0], filter={"no": n})["watch_id"] for n in range(50)]
            for id in ids:
                ws.live(id, 2)
            written = client.put(library, "a", at(1, 1))
            told: set[str] = set()
            while told != set(ids):
                frame = ws.next(lambda f: f.get("event") == "progress")
                assert frame["type"] == "system"
                if frame["cursor"] == written["cursor"]:
                    told |= set(frame["watch_ids"])


def test_writes_of_another_process_are_told(serve: Serve) -> None:
    one, two = serve(), serve()
    with Client(one.url) as here, Client(two.url) as there:
        library = here.create_library(**TWO_D)["id"]
        with Socket(one.url, library) as ws:
            followed = Followed(ws, ws.ask("watch", vector=[1, 0], k=2)["watch_id"])
            there.put(library, "a", at(1, 1))
            followed.until(lambda ids: ids == ["a"])
            there.put(library, "b", at(1, 0))
            followed.until(lambda ids: ids == ["b", "a"])
            there.delete(library, "a")
            followed.until(lambda ids: ids == ["b"])


def test_a_reader_that_was_slow_is_told_what_is_true_then(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        client.stream(library, ({"id": f"d{n}", **at(1, n)} for n in range(2000)))
        with BareSocket(server.url, library, receive_buffer=4096) as slow:
            slow.json()
            for number in range(20):
                slow.ask("search", number, vector=[1, 0], k=2000)
            slow.ask("watch", "w", vector=[0, 1], k=3)
            eventually(
                lambda: client.http.get("/v1/websockets/statistics").json()["waiting_to_read"] == 1,
                "it to be full",
            )
            for turn in range(200):
                client.put(library, f"new-{turn}", at(0, 1, turn=turn))
                client.delete(library, f"new-{turn}")
            last = client.put(library, "last", at(0, 1))
            hits: dict[str, Json] = {}
            told = 0
            while "last#0" not in hits:
                frame = slow.json()
                if frame["type"] != "live":
                    continue
                told += 1
                if frame["event"] == "snapshot":
                    hits = {hit["chunk_id"]: hit for hit in frame["data"]["results"]}
                elif frame["event"] == "enter":
                    hits[frame["data"]["hit"]["chunk_id"]] = frame["data"]["hit"]
            assert told < 50, "not every step in between"
            assert last["cursor"]


def test_thousands_of_live_queries_fit_on_one_socket(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        client.stream(library, ({"id": f"d{n}", **at(1, n)} for n in range(100)))
        with Socket(server.url, library, timeout=60) as ws:
            ids = [ws.send("watch", {"vector": [1, n / 25], "k": 1}) for n in range(2500)]
            watches = [ws.response(id)["data"]["watch_id"] for id in ids]
            ready = 0
            while ready < 2500:
                frame = ws.next(lambda f: f["type"] == "live")
                ready += frame["event"] == "ready"
            assert client.http.get("/v1/websockets/statistics").json()["watches"] == 2500
            client.put(library, "other", at(-1, -1))
            ws.ask("ping")
            client.put(library, "best", at(1, 0.4))
            frame = ws.next(lambda f: f["type"] == "live" and f["event"] == "enter")
            assert frame["data"]["hit"]["document_id"] == "best"
            assert frame["watch_id"] in watches
        eventually(
            lambda: client.http.get("/v1/websockets/statistics").json()["watches"] == 0,
            "all of them to be gone",
        )
