"""How an event stream begins, idles, is reset and ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from server.client import Client, Json
from server.running import Server, eventually

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose heartbeats and progress come quickly."""
    data = tmp_path_factory.mktemp("brisk") / "data"
    with Server(data, feeds__heartbeat=0.2, feeds__progress=0.3) as server:
        yield server


def test_ready_comes_first_and_nothing_after_its_cursor_is_missed(
    client: Client, library: str
) -> None:
    with client.events() as events:
        ready = next(events)
        assert (ready.event, ready.id) == ("ready", None)
        assert ready.retry_ms is not None
        written = client.put(library, "a", {"text": "hello"})
        sent = next(events)
        assert (sent.event, sent.id) == ("document.added", written["cursor"])


def test_quiet_stream_carries_heartbeats(brisk: Server) -> None:
    with Client(brisk.url) as client, client.events(comments=True) as events:
        assert next(events).event == "ready"
        assert [next(events).event for _ in range(3)] == [":", ":", ":"]
        library = client.create_library()["id"]
        assert next(e for e in events if e.event != ":").data["library_id"] == library


def test_progress_advances_a_reader_to_whom_nothing_matches(brisk: Server) -> None:
    with Client(brisk.url) as client:
        library = client.create_library()["id"]
        with client.events(types="library.deleted") as events:
            start = next(events).data["cursor"]
            written = client.put(library, "a", {"text": "not asked for"})
            progress = events.until("progress")
            assert progress.id == progress.data["cursor"] == written["cursor"] != start
            last_id = events.last_id
        other = client.put(library, "b", {"text": "not asked for either"})
        with client.events(types="library.deleted", last_id=last_id) as events:
            assert events.until("progress").id == other["cursor"]
            gone = client.http.delete(f"/v1/libraries/{library}").json()
            assert events.until("library.deleted").id == gone["cursor"]


def test_reader_older_than_the_log_is_reset_and_can_begin_again(serve: Serve) -> None:
    server = serve(log__retention_changes=1000, log__trim_every=0.2)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=2)["id"]
        (first,) = client.all_events()
        documents = ({"id": f"d{n}", "chunks": [{"vector": [1, n]}]} for n in range(3000))
        summary = client.stream(library, documents, response="summary")[-1]
        head = int(summary["cursor"].split(".")[1])

        def trimmed() -> bool:
            """To the end: it goes in steps, and each moves what is the earliest."""
            return head - int(client.statistics()["earliest"].split(".")[1]) <= 1000

        eventually(trimmed, "the log to be trimmed")
        with client.events(last_id=first["id"]) as events:
            reset = next(events)
            assert reset.event == "reset"
            assert reset.data["code"] == "cursor_expired"
            assert next(events, None) is None
        gone = client.http.get("/v1/events", params={"after": first["id"]})
        assert gone.status_code == 410
        assert gone.json()["code"] == "cursor_expired"
        for earliest in (reset.data["earliest"], gone.json()["earliest"], "beginning"):
            kept = client.all_events(after=earliest)
            # No more than the setting keeps, and all of that: nothing between is missing.
            positions = [int(event["id"].split(".")[1]) for event in kept]
            assert positions == list(range(positions[0], head + 1))
            assert len(kept) <= 1000


def test_stream_open_while_the_log_is_trimmed_past_it_goes_on_at_the_head(serve: Serve) -> None:
    server = serve(log__retention_changes=1000, log__trim_every=0.1)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=2)["id"]
        with client.events(types="document.added", filter='{"pick":1}') as events:
            for begin in range(0, 6000, 1000):
                documents = (
                    {"id": f"d{n}", "chunks": [{"vector": [1, n]}], "metadata": {"pick": n % 1000}}
                    for n in range(begin, begin + 1000)
                )
                client.stream(library, documents, response="summary")
            heard = [event["data"]["document_id"] for event in events.take(6)]
        assert heard == [f"d{n}" for n in range(1, 6000, 1000)]


def test_streams_are_told_goodbye_when_the_server_stops(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library()["id"]
        with client.events(after="beginning") as events:
            events.until("library.created")
            took = server.stop()
            goodbye = next(events)
            assert goodbye.event == "goodbye"
            assert goodbye.data["cursor"] == events.last_id
            assert goodbye.data["reason"] == "stopping"
            assert goodbye.retry_ms is not None
            assert next(events, None) is None
            assert took < 5
        server.start()
        with client.events(last_id=goodbye.data["cursor"]) as events:
            written = client.put(library, "a", {"text": "after the restart"})
            assert events.take(1)[0]["id"] == written["cursor"]


def test_stream_of_maximum_age_ends_with_goodbye_and_loses_nothing(serve: Serve) -> None:
    server = serve(feeds__max_age=0.2)
    enough = threading.Event()
    with Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        library = client.create_library()["id"]

        def write() -> list[str]:
            with Client(server.url) as writer:
                written: list[str] = []
                while not enough.is_set():
                    number = len(written)
                    answer = writer.put(library, f"d{number}", {"text": f"text {number}"})
                    written.append(answer["id"])
            return written

        writing = pool.submit(write)
        heard: list[str] = []
        rounds, after = 0, "beginning"
        try:
            while not writing.done() or len(heard) < len(writing.result()):
                with client.events(types="document.*", after=after) as events:
                    assert next(events).event == "ready"
                    for sent in events:
                        after = sent.data.get("cursor") or sent.data["id"]
                        if sent.event == "goodbye":
                            assert sent.data["reason"] == "max_age"
                        else:
                            heard.append(sent.data["data"]["document_id"])
                    assert sent.event == "goodbye"
                rounds += 1
                if rounds == 4:
                    enough.set()
        finally:
            enough.set()
        assert writing.result() == heard


def test_unknown_type_and_library_are_refused_before_the_stream_opens(client: Client) -> None:
    cases: list[tuple[Json, str]] = [
        ({"types": "document.exploded"}, "invalid_query"),
        ({"filter": "[1]"}, "invalid_filter"),
        ({"library_id": "no such library"}, "library_not_found"),
        ({"include": "everything"}, "invalid_query"),
    ]
    for params, code in cases:
        with pytest.raises(httpx.HTTPStatusError) as refused, client.events(**params):
            pass
        assert refused.value.response.json()["code"] == code


def test_reader_that_vanishes_harms_nobody(client: Client, library: str) -> None:
    with client.events(library=library) as steady:
        next(steady)
        for number in range(20):
            with suppress(httpx.HTTPError), client.events(library=library) as brief:
                next(brief)
                client.put(library, f"d{number}", {"text": f"text {number}"})
        heard = [event["data"]["document_id"] for event in steady.take(20)]
    assert heard == [f"d{number}" for number in range(20)]
