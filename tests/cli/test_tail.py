from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from cli.conftest import Run
from cli.fake_server import Answer, CutConnection, FakeServer, Request, as_json, as_problem

from headwater.cli.backoff import Backoff
from headwater.cli.client import Client, Problem
from headwater.cli.sse import ServerEvent, parse
from headwater.cli.tail import Feed

PATH = "/v1/events/stream"


def frame(kind: str, data: Any, cursor: str | None = None, retry: int | None = None) -> bytes:
    made = f"event: {kind}\n" + (f"id: {cursor}\n" if cursor else "")
    made += f"retry: {retry}\n" if retry is not None else ""
    return f"{made}data: {json.dumps(data)}\n\n".encode()


def added(position: int) -> bytes:
    event = {
        "id": f"logid1.{position}",
        "type": "document.added",
        "library_id": "0190",
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "data": {"document_id": f"d{position}", "title": "A\x1b[31m title", "num_chunks": 1},
    }
    return frame("document.added", event, f"logid1.{position}")


def sse(*pieces: bytes, cut: bool = False) -> Answer:
    def body() -> Iterator[bytes]:
        yield from pieces
        if cut:
            raise CutConnection

    return Answer(body(), content_type="text/event-stream")


def script(server: FakeServer, *answers: Answer) -> None:
    left = list(answers)
    server.on("GET", PATH, lambda request: left.pop(0))


def feed(client: Client, sleep: Callable[[float], None] = lambda seconds: None) -> Feed:
    backoff = Backoff(first=1.0, cap=30.0, sleep=sleep)
    return Feed(client, libraries=[], types="*", after="now", backoff=backoff)


def positions(requests: list[Request]) -> list[tuple[str | None, str | None]]:
    return [(made.query.get("after"), made.headers.get("last-event-id")) for made in requests]


def test_feed_resumes_with_the_last_event_id(server: FakeServer) -> None:
    ready = frame("ready", {"cursor": "logid1.0"})
    script(
        server,
        sse(ready, added(1), added(2), b"event: document.added\nid: logid1.3\nda", cut=True),
        sse(ready, added(3), frame("progress", {"cursor": "logid1.7"}, "logid1.7"), cut=True),
        sse(ready, added(8)),
    )
    with Client(server.url) as client:
        got = [event.id for event in islice(feed(client).events(), 4)]
    assert got == ["logid1.1", "logid1.2", "logid1.3", "logid1.8"]
    assert positions(server.requests) == [("now", None), (None, "logid1.2"), (None, "logid1.7")]


def test_break_before_the_first_event_resumes_from_ready(server: FakeServer) -> None:
    script(
        server,
        sse(frame("ready", {"cursor": "logid1.5"}), cut=True),
        sse(frame("ready", {"cursor": "logid1.5"}), added(6)),
    )
    with Client(server.url) as client:
        assert next(feed(client).events()).id == "logid1.6"
    assert positions(server.requests) == [("now", None), (None, "logid1.5")]


def test_server_sets_the_delay_and_failures_lengthen_it(server: FakeServer) -> None:
    goodbye = frame("goodbye", {"cursor": "logid1.1", "reason": "shutdown"}, retry=200)
    waits: list[float] = []
    busy = {"retryable": True}
    script(
        server,
        sse(frame("ready", {"cursor": "logid1.0"}), added(1), goodbye),
        as_problem("shutting_down", "soon", 503, **busy),
        as_problem("shutting_down", "soon", 503, **busy),
        sse(frame("ready", {"cursor": "logid1.1"}), added(2)),
    )
    with Client(server.url) as client:
        assert [event.id for event in islice(feed(client, waits.append).events(), 2)] == [
            "logid1.1",
            "logid1.2",
        ]
    assert [0.1 <= waits[0] <= 0.2, 0.2 <= waits[1] <= 0.4, 0.4 <= waits[2] <= 0.8] == [True] * 3


def test_reset_says_so_and_stops_with_code_3(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"code": "cursor_expired", "earliest": "logid1.40", "detail": "too old"}
    script(server, sse(frame("reset", data)))
    assert run("tail", "--after", "logid1.2", "--url", server.url) == 3
    assert "cursor_expired: too old. The earliest cursor is logid1.40" in capsys.readouterr().err
    assert positions(server.requests) == [("logid1.2", None)]


def test_refusal_is_final(server: FakeServer) -> None:
    script(server, as_problem("library_not_found", "no library x", 404))
    with Client(server.url) as client, pytest.raises(Problem, match="no library x"):
        next(feed(client).events())


def test_lines_are_plain_and_carry_no_control_characters(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    script(server, sse(frame("ready", {"cursor": "logid1.0"}), added(1)))
    server.on("GET", "/v1/libraries/0190", lambda request: as_json({"name": "notes"}))
    assert run("tail", "-n", "1", "--url", server.url) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "document.added     notes  d1  A [31m title  num_chunks=1" in printed
    assert "\x1b" not in printed


def test_json_lines_are_the_events(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    script(server, sse(frame("ready", {"cursor": "logid1.0"}), added(1), added(2)))
    arguments = ["tail", "--json", "-n", "2", "-l", "a", "--types", "document.*"]
    assert run(*arguments, "--url", server.url) == 0
    ids = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert ids == ["logid1.1", "logid1.2"]
    assert server.requests[0].query == {"library_id": "a", "types": "document.*", "after": "now"}


def test_interrupt_ends_it_cleanly_and_tells_the_cursor(server: FakeServer) -> None:
    served, finished = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield frame("ready", {"cursor": "logid1.4"})
        served.set()
        finished.wait(20)

    server.on("GET", PATH, lambda request: Answer(pieces(), content_type="text/event-stream"))
    command = [sys.executable, "-m", "headwater", "tail", "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert served.wait(20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        finished.set()
    assert process.returncode == 0
    assert b"Traceback" not in said


def test_parser_follows_the_standard() -> None:
    lines = [b": a comment", b"", b"data: one", b"data:two", b"unknown: x", b"id: 7", b""]
    lines += [b"retry: 50", b"", b"retry: x", b"", b"event: cut", b"data: never finished"]
    assert list(parse(lines)) == [
        ServerEvent("message", "one\ntwo", "7"),
        ServerEvent("", "", None, 50),
    ]


def test_a_filter_is_sent_again_after_every_break(server: FakeServer) -> None:
    ready = frame("ready", {"cursor": "logid1.0"})
    script(server, sse(ready, added(1), cut=True), sse(ready, added(2)))
    with Client(server.url) as client:
        quiet = Backoff(sleep=lambda seconds: None)
        chosen: dict[str, Any] = {"backoff": quiet, "say": lambda text: None, "filter": '{"a":1}'}
        filtered = Feed(client, libraries=[], types="*", after="now", **chosen)
        assert len(list(islice(filtered.events(), 2))) == 2
    assert [made.query.get("filter") for made in server.requests] == ['{"a":1}'] * 2
