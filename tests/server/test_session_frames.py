"""What may go wrong on a session's socket: odd frames, limits, speed. It goes on where it can."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from server.client import Client, Json
from server.guest import Guest, turned_away
from server.running import Server

Serve = Callable[..., Server]

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}

# A message, the error's code, and whether a response says it.
ODD: list[tuple[str | bytes, str, bool]] = [
    ("", "invalid_json", False),
    ("nonsense", "invalid_json", False),
    ("{", "invalid_json", False),
    ("[" * 100_000, "invalid_frame", False),
    ('{"a":' * 100_000, "invalid_json", False),
    ('{"type":"request","data":' + "[" * 100_000, "invalid_json", False),
    ("null", "invalid_frame", False),
    ("[]", "invalid_frame", False),
    ("{}", "invalid_frame", False),
    ('{"type":7}', "invalid_frame", False),
    ('{"type":"what"}', "invalid_frame", False),
    ('{"type":"request"}', "invalid_frame", False),
    ('{"type":"request","action":"ping"}', "invalid_frame", False),
    ('{"type":"request","action":"ping","request_id":null}', "invalid_frame", False),
    ('{"type":"request","action":7,"request_id":1}', "invalid_frame", True),
    ('{"type":"request","action":"ping","request_id":1,"x":1}', "invalid_frame", True),
    ('{"type":"request","action":"search","request_id":1}', "unknown_action", True),
    ('{"type":"request","action":"ping","request_id":1,"data":{"x":1}}', "unknown_field", True),
    ('{"type":"request","action":"ping","request_id":1,"data":[]}', "invalid_session", True),
    ('{"type":"request","action":"pin","request_id":1,"data":7}', "invalid_session", True),
    ('{"type":"request","action":"revise","request_id":1,"data":{}}', "invalid_session", True),
    (
        '{"type":"request","action":"revise","request_id":1,'
        '"data":{"base_revision":0,"query":{"k":"x"}}}',
        "invalid_query",
        True,
    ),
    (
        '{"type":"request","action":"revise","request_id":1,'
        '"data":{"base_revision":0,"query":{"vector":[1]}}}',
        "dimension_mismatch",
        True,
    ),
    (
        '{"type":"request","action":"revise","request_id":1,'
        '"data":{"base_revision":0,"query":{"vector":[1,0],"filter":{"$x":1}}}}',
        "invalid_filter",
        True,
    ),
    (
        '{"type":"request","action":"revise","request_id":1,'
        '"data":{"base_revision":0,"query":{"vector":[1,0],"filter":[]}}}',
        "invalid_filter",
        True,
    ),
    (
        '{"type":"request","action":"edit_note","request_id":1,'
        '"data":{"note_id":"x","base_revision":1,"text":"t"}}',
        "note_not_found",
        True,
    ),
    ('{"type":"message"}', "invalid_frame", False),
    ('{"type":"message","data":1,"to":"Bob"}', "invalid_frame", False),
    ('{"type":"message","data":"' + "x" * 5_000 + '"}', "message_too_large", False),
    (b'{"type":"message","data":1}', "invalid_frame", False),
]


@pytest.fixture
def notes(client: Client) -> str:
    name: str = client.create_library(**TWO_D)["name"]
    client.put(name, "a", {"chunks": [{"vector": [1, 0]}]})
    return name


def test_odd_frames_are_answered_and_the_socket_goes_on(client: Client, notes: str) -> None:
    with Guest(client.url, "odd", "Ann", notes) as ann, Guest(client.url, "odd", "Bob") as bob:
        ann.sees("Ann", "Bob")
        for message, code, answered in ODD:
            ann.socket.send(message)
            frame = ann.read()
            assert frame["type"] == ("response" if answered else "error"), (message, frame)
            assert frame["error"]["code"] == code, (message, frame)
            assert {"title", "status", "detail", "retryable"} <= frame["error"].keys()
        assert ann.do("ping")["cursor"]
        ann.say("still here")
        assert bob.hears() == ["still here"]


def test_requests_are_answered_in_their_order(client: Client, notes: str) -> None:
    with Guest(client.url, "order", "Ann", notes) as ann:
        ids = [ann.send("note", document_id="a", text=f"{number}") for number in range(20)]
        for id in ids:
            assert ann.response(id)["data"]["text"] == str(id - 1)


def test_the_state_can_be_asked_for_again(client: Client, notes: str) -> None:
    with Guest(client.url, "again", "Ann", notes) as ann:
        before = len(ann.frames)
        ann.do("state")
        ann.until(lambda: "state" in [frame["type"] for frame in ann.frames[before:]])


@pytest.fixture
def narrow(serve: Serve) -> Server:
    """A server with small limits, a library `notes` and a document."""
    server = serve(
        sessions__most=2,
        sessions__people=2,
        sessions__pins=1,
        sessions__notes=1,
        sessions__note_chars=10,
        sessions__k=3,
        sessions__message_bytes=64,
        sessions__messages_per_second=5,
        sessions__requests_per_second=5,
        sessions__ping_every=60,
    )
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        client.put("notes", "a", {"chunks": [{"vector": [1, 0]}]})
    return server


def test_limits_have_their_codes(narrow: Server) -> None:
    with ExitStack() as stack:
        ann = stack.enter_context(Guest(narrow.url, "one", "Ann", "notes"))
        assert ann.welcome["limits"]["people"] == 2
        stack.enter_context(Guest(narrow.url, "one", "Bob"))
        stack.enter_context(Guest(narrow.url, "two", "Cid", "notes"))
        for session, code in (("one", "session_full"), ("three", "too_many_sessions")):
            closed, frame = turned_away(narrow.url, session, display_name="Eve", library="notes")
            assert (closed, frame["error"]["code"]) == (4413, code)
            assert frame["error"]["limit"] == 2
        ann.do("pin", document_id="a")
        assert ann.refused("pin", chunk_id="a#0")["code"] == "too_many_pins"
        ann.do("note", document_id="a", text="0123456789")
        assert ann.refused("note", document_id="a", text="more")["code"] == "too_many_notes"
    with Guest(narrow.url, "one", "Ann") as ann:
        assert ann.refused("note", document_id="a", text="x" * 11)["code"] == "invalid_session"
        query = {"vector": [1.0, 0.0], "k": 4}
        assert ann.refused("revise", base_revision=0, query=query)["parameter"] == "k"
        query = {"vector": [1.0, 0.0], "score_threshold": 0.5}
        ann.do("revise", base_revision=0, query=query)
        ann.finds("a")
        assert ann.query["query"]["k"] == 3


def test_whoever_asks_too_fast_is_told_and_read_more_slowly(narrow: Server) -> None:
    with Guest(narrow.url, "one", "Ann", "notes") as ann:
        ids = [ann.send("ping") for _ in range(15)]
        answers: list[Json] = [ann.response(id) for id in ids]
        refused = [answer["error"] for answer in answers if not answer["success"]]
        assert 0 < len(refused) < 15
        assert {error["code"] for error in refused} == {"rate_limited"}
        assert all(error["retryable"] and error["retry_after_ms"] > 0 for error in refused)


def test_messages_have_a_speed_limit_of_their_own(narrow: Server) -> None:
    with Guest(narrow.url, "one", "Ann", "notes") as ann, Guest(narrow.url, "one", "Bob") as bob:
        for number in range(14):
            ann.say(number)
        ann.until(lambda: any(frame["type"] == "error" for frame in ann.frames))
        error = next(frame["error"] for frame in ann.frames if frame["type"] == "error")
        assert error["code"] == "rate_limited"
        assert bob.hears(10)[:10] == list(range(10))


def test_a_message_is_never_answered_nor_logged(narrow: Server) -> None:
    with Guest(narrow.url, "one", "Ann", "notes") as ann:
        before = len(ann.frames)
        ann.socket.send(json.dumps({"type": "message", "data": None}))
        ann.do("ping")
        assert [frame["type"] for frame in ann.frames[before:]] == ["response"]


def test_who_reads_nothing_costs_no_memory_and_gets_the_state_later(serve: Serve) -> None:
    server = serve(
        sessions__buffer_bytes=256 << 10,
        sessions__note_chars=20_000,
        sessions__requests_per_second=10_000,
        sessions__ping_every=600,
        store__durability="normal",
        log__ring_bytes=1 << 20,
    )
    text = "€" * 20_000
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        client.put("notes", "a", {"chunks": [{"vector": [1, 0]}]})
        with (
            Guest(server.url, "one", "Ann", "notes") as ann,
            Guest(server.url, "one", "Bob", buffer_bytes=4_096) as bob,
        ):
            note = ann.do("note", document_id="a", text=text)
            before = server.rss_bytes()
            for revision in range(1, 200):  # some 12 MB of events
                ann.do("edit_note", note_id=note["note_id"], base_revision=revision, text=text)
            assert server.rss_bytes() - before < 20 << 20
            frames = len(bob.frames)
            bob.until(lambda: bob.notes and bob.notes[note["note_id"]]["revision"] == 200)
            told = [frame["type"] for frame in bob.frames[frames:]]
            assert "state" in told
            assert told.count("event") < 180


def test_who_reads_nothing_for_too_long_is_put_out(serve: Serve) -> None:
    server = serve(
        sessions__note_chars=20_000,
        sessions__requests_per_second=10_000,
        sessions__ping_every=600,
        websocket__stall=1,
        store__durability="normal",
    )
    text = "€" * 20_000
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        client.put("notes", "a", {"chunks": [{"vector": [1, 0]}]})
        with Guest(server.url, "one", "Ann", "notes") as ann:
            bob = Guest(server.url, "one", "Bob", buffer_bytes=4_096)
            ann.sees("Ann", "Bob")
            note = ann.do("note", document_id="a", text=text)
            revision = 1
            while ann.names == ["Ann", "Bob"]:
                assert revision < 20_000
                ann.do("edit_note", note_id=note["note_id"], base_revision=revision, text=text)
                revision += 1
            assert ann.names == ["Ann"]
            bob.cut()
