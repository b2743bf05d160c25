"""Memory is bounded and nobody else waits, whatever clients do: stalled, greedy or many."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import invariants
from server.client import Client, Json, SseParser, ndjson
from server.conversation import Conversation
from server.pump import Pump
from server.running import Server, eventually

Serve = Callable[..., Server]

MB = 1_000_000
LEAN: dict[str, Any] = {"store__cache_bytes": 4 << 20, "log__ring_bytes": 1 << 20}
"""Small caches, so that what is measured is what clients cause."""

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}


class Peak:
    """The most memory a server used while this was watched, beyond what it had at first."""

    def __init__(self, server: Server) -> None:
        self.before = self.most = server.rss_bytes()
        self._server = server
        self._stop = threading.Event()

    @property
    def grown(self) -> int:
        return self.most - self.before

    def watch(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, self._server.rss_bytes())

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def peak_of(server: Server) -> Iterator[Peak]:
    peak = Peak(server)
    thread = threading.Thread(target=peak.watch)
    thread.start()
    try:
        yield peak
    finally:
        peak.stop()
        thread.join()


def updates(rounds: int, ids: int = 1000) -> Iterator[Json]:
    """The same documents again and again with new metadata: many events, no new vectors."""
    for turn, number in itertools.product(range(rounds), range(ids)):
        yield {
            "id": f"d{number}",
            "chunks": [{"vector": [1, number], "text": "always the same"}],
            "metadata": {"turn": turn, "padding": "x" * 60},
        }


def test_stalled_reader_costs_no_memory_and_delays_nobody(serve: Serve) -> None:
    rounds = 110
    server = serve(**LEAN)
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library(**TWO_D)["id"]
        client.stream(library, updates(3), response="summary")  # what grows once, has grown
        path = f"/v1/libraries/{library}/events/stream"
        stalled = [
            stack.enter_context(Conversation(server.url, "GET", path, receive_buffer=4096))
            for _ in range(3)
        ]
        eventually(lambda: client.statistics()["subscriber_count"] == 3, "the stalled readers")
        events = stack.enter_context(client.events(library=library, types="document.*,batch.*"))
        next(events)

        def listen() -> tuple[int, float]:
            heard = 0
            for sent in events:
                if sent.event == "batch.completed":
                    break
                heard += sent.event == "document.updated"
            return heard, time.monotonic()

        with ThreadPoolExecutor(1) as pool, peak_of(server) as peak:
            listening = pool.submit(listen)
            lines = (
                ndjson(itertools.islice(documents, 500))
                for documents in itertools.repeat(updates(rounds), rounds * 2)
            )
            summary = client.stream_raw(library, lines, response="summary")[-1]
            ended = time.monotonic()
            heard, heard_at = listening.result(60)
        assert summary["updated"] == rounds * 1000
        assert heard == rounds * 1000
        assert heard_at - ended < 5
        assert peak.grown < 100 * MB, f"{peak.grown / MB:.0f} MB more"

        began = time.monotonic()
        client.put(library, "quick", {"chunks": [{"vector": [1, 1]}]})
        assert time.monotonic() - began < 2
        statistics = client.statistics()
        assert statistics["subscriber_count"] == 4
        # The stalled ones wait in the log, far behind, and could still go on from where they are.
        assert statistics["pending_events"] > 100_000
        parser = SseParser()
        first: list[int] = []
        while len(first) < 2000:
            piece = stalled[0].read_piece()
            assert piece is not None
            first += [
                invariants.position(sent.id)[0]
                for sent in parser.feed(piece)
                if sent.id is not None
            ]
        assert first == list(range(first[0], first[0] + len(first)))


def test_reader_that_takes_nothing_for_too_long_is_disconnected(serve: Serve) -> None:
    server = serve(feeds__stall=0.5, **LEAN)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        with Conversation(server.url, "GET", "/v1/events/stream", receive_buffer=4096):
            eventually(lambda: client.statistics()["subscriber_count"] == 1, "the reader")
            client.stream(library, updates(20), response="summary")
            eventually(lambda: client.statistics()["subscriber_count"] == 0, "it to be cut off")


def test_client_that_sends_200_mb_before_it_reads_a_byte_gets_every_result(serve: Serve) -> None:
    server = serve(**LEAN)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        client.stream(library, updates(1), response="summary")
        good, bad = 10_000, 250_000
        text = "x" * 9_900
        wrong = json.dumps({"id": "y" * 300, "no_such_field": "z" * 80}).encode() + b"\n"
        sent = 0
        path = f"/v1/libraries/{library}/documents/stream"
        with (
            Conversation(server.url, "POST", path, chunked=True, timeout=120) as talk,
            peak_of(server) as peak,
        ):
            for begin in range(0, good, 100):
                piece = ndjson(
                    {"id": f"big-{n}", "chunks": [{"vector": [1, n], "text": text}]}
                    for n in range(begin, begin + 100)
                )
                piece += wrong * (bad * 100 // good)
                talk.send(piece)
                sent += len(piece)
            talk.end()
            assert sent > 200 * MB
            began = time.monotonic()
            assert client.search(library, vector=[1, 2], k=1)["results"]
            assert time.monotonic() - began < 5

            line = created = failed = 0
            for record in talk.records():
                if record["type"] == "result":
                    line += 1
                    assert record["line"] == line
                    created += record["status"] == "created"
                    if record["status"] == "failed":
                        failed += 1
                        assert record["error"]["code"] == "unknown_field"
            assert record["type"] == "summary"
        assert (line, created, failed) == (good + bad, good, bad)
        assert (record["received"], record["created"], record["failed"]) == (line, good, bad)
        assert peak.grown < 100 * MB, f"{peak.grown / MB:.0f} MB more"


def test_export_that_is_not_read_costs_no_memory_and_ends_whole(serve: Serve) -> None:
    server = serve(**LEAN)
    with Client(server.url) as client:
        library = client.create_library(**TWO_D)["id"]
        text = "x" * 20_000
        documents = (
            {"id": f"d{n}", "chunks": [{"vector": [1, n], "text": text}]} for n in range(6000)
        )
        lines = (ndjson(itertools.islice(documents, 100)) for _ in range(60))
        client.stream_raw(library, lines, response="summary")
        path = f"/v1/libraries/{library}/documents/stream?include=chunks"
        with (
            peak_of(server) as peak,
            Conversation(server.url, "GET", path, receive_buffer=4096, timeout=60) as talk,
        ):
            assert talk.read_head() == 200
            for number in range(50):
                client.put(library, f"late-{number}", {"chunks": [{"vector": [1, 1]}]})
            ids = [record["id"] for record in talk.records() if record["type"] == "document"]
        assert ids == [f"d{n}" for n in range(6000)]
        assert peak.grown < 100 * MB, f"{peak.grown / MB:.0f} MB more"


def test_hundreds_of_open_streams_end_with_goodbye_within_five_seconds(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library(**TWO_D)["id"]
        documents = f"/v1/libraries/{library}/documents/stream"
        client.stream(library, updates(1))
        feeds = [
            stack.enter_context(Conversation(server.url, "GET", "/v1/events/stream"))
            for _ in range(300)
        ]
        exports = [
            stack.enter_context(Conversation(server.url, "GET", f"{documents}?follow=true"))
            for _ in range(20)
        ]
        for export in exports:
            while json.loads(export.read_line() or b"")["type"] != "summary":
                pass
        eventually(lambda: client.statistics()["subscriber_count"] >= 300, "all readers")
        # Few enough for the system to hold until they are read, which is after the stop.
        few = ({"id": f"e{n}", "chunks": [{"vector": [1, n]}]} for n in range(200))
        pump = Pump(server.url, library, few, hold=True)
        eventually(lambda: len(pump.promised) == 200, "the stream to run")
        took = server.stop()
        pump.finish()
        pump.join()
        assert took < 5

        last = pump.records[-1]
        assert (last["type"], last["error"]["code"]) == ("error", "shutting_down")
        assert pump.summary is None
        for feed in feeds:
            parser = SseParser()
            told = [sent for piece in iter(feed.read_piece, None) for sent in parser.feed(piece)]
            assert told[0].event == "ready"
            assert told[-1].event == "goodbye"
            assert told[-1].data["reason"] == "stopping"
        for export in exports:
            *_, record = export.records()
            assert record["type"] == "goodbye"

        server.start()
        invariants.acknowledged_is_there(client, library, pump.promised)
        invariants.log_tells_what_is_there(client, library)
        invariants.batches_are_ended(client)


def test_readers_who_take_nothing_do_not_hold_up_a_stopping_server(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client, ExitStack() as stack:
        library = client.create_library(**TWO_D)["id"]
        for _ in range(20):
            stack.enter_context(Conversation(server.url, "GET", "/v1/events/stream"))
        eventually(lambda: client.statistics()["subscriber_count"] >= 20, "all readers")
        client.stream(library, updates(5))
        endless = ({"id": f"e{n}", "chunks": [{"vector": [1, n]}]} for n in itertools.count())
        pump = Pump(server.url, library, endless)
        eventually(lambda: len(pump.promised) > 200, "the stream to run")
        took = server.stop()
        pump.join()
        assert took < 5
        assert "Traceback" not in server.said()
