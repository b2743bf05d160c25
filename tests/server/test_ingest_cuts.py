"""Ingest streams whose connection breaks, lies, or whose server stops."""

from __future__ import annotations

import json
import socket
import struct

import httpx
import pytest
from server.client import Client, Json
from server.conftest import Serve
from server.conversation import Conversation
from server.running import eventually
from server.streams import counts, results


def batch_events(client: Client, library: str) -> list[Json]:
    return client.all_events(library_id=library, types="batch.*")


@pytest.mark.parametrize("way", ["half", "close", "reset"])
def test_a_connection_that_breaks_keeps_what_was_told_and_harms_nobody(
    client: Client, library: str, way: str
) -> None:
    path = f"/v1/libraries/{library}/documents/stream"
    with (
        Conversation(client.url, "POST", path, chunked=True) as talk,
        Conversation(client.url, "POST", path, chunked=True) as neighbour,
    ):
        neighbour.send(b'{"id":"n1","text":"x"}\n')
        assert json.loads(neighbour.read_line() or b"")["id"] == "n1"
        talk.send(b'{"id":"a","text":"x"}\n{"id":"b","text":"x"}\n')
        told = [json.loads(talk.read_line() or b"") for _ in range(3)]
        assert [record.get("id") for record in told] == ["a", "b", None]
        talk.send(b'{"id":"cut","text":"never')
        if way == "half":
            talk.half_close()
        elif way == "reset":
            linger = struct.pack("ii", 1, 0)
            talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            talk.close()
        else:
            talk.close()
        eventually(
            lambda: any(e["type"] == "batch.failed" for e in batch_events(client, library)),
            "batch.failed",
        )
        neighbour.send(b'{"id":"n2","text":"x"}\n')
        neighbour.end()
        *_, last = neighbour.records()
        assert last["type"] == "summary"
        assert last["created"] == 2
    assert set(client.documents(library)) == {"a", "b", "n1", "n2"}
    (failed,) = [e for e in batch_events(client, library) if e["type"] == "batch.failed"]
    assert failed["data"]["error"]
    assert failed["data"]["created"] == 2
    (completed,) = [e for e in batch_events(client, library) if e["type"] == "batch.completed"]
    assert completed["data"]["batch_id"] != failed["data"]["batch_id"]


def test_a_stream_cut_before_its_first_line_leaves_no_batch(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/documents/stream"
    with Conversation(client.url, "POST", path, chunked=True) as talk:
        assert talk.read_head() == 200
        talk.send(b'{"id":"a","te')
    client.put(library, "later", {"text": "x"})
    assert batch_events(client, library) == []
    assert set(client.documents(library)) == {"later"}


def test_a_lying_content_length_is_a_cut(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/documents/stream"
    with Conversation(client.url, "POST", path, {"content-length": "1000"}) as talk:
        talk.send(b'{"id":"a","text":"x"}\n')
        assert json.loads(talk.read_line() or b"")["status"] == "created"
    eventually(
        lambda: any(e["type"] == "batch.failed" for e in batch_events(client, library)),
        "batch.failed",
    )
    assert set(client.documents(library)) == {"a"}


def test_a_client_that_expects_100_continue_is_told_to_go_on(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/documents/stream"
    body = b'{"id":"a","text":"x"}\n'
    headers = {"expect": "100-continue", "content-length": str(len(body))}
    with Conversation(client.url, "POST", path, headers) as talk:
        assert talk.read_head() == 100
        talk.send(body)
        assert [record["type"] for record in talk.records()] == [
            "result",
            "checkpoint",
            "summary",
        ]


def test_streams_side_by_side_each_have_their_own_results(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/documents/stream"
    talks = [Conversation(client.url, "POST", path, chunked=True) for _ in range(8)]
    try:
        for round_ in range(5):
            for number, talk in enumerate(talks):
                talk.send(b'{"id":"s%d-%d","text":"x"}\n' % (number, round_))
        for number, talk in enumerate(talks):
            talk.end()
            records = list(talk.records())
            assert [r["id"] for r in results(records)] == [f"s{number}-{r}" for r in range(5)]
            assert counts(records[-1]) == (5, 5, 0, 0, 0)
    finally:
        for talk in talks:
            talk.close()
    assert len(client.documents(library)) == 40


def test_a_stopping_server_says_so_and_the_stream_can_be_sent_again(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library("a")["id"]
        path = f"/v1/libraries/{library}/documents/stream"
        talk = Conversation(server.url, "POST", path, chunked=True)
        with talk:
            talk.send(b'{"id":"a","text":"x"}\n')
            assert json.loads(talk.read_line() or b"")["status"] == "created"
            server.stop()
            records = list(talk.records())
        assert records[-1] == {
            "type": "error",
            "error": {
                "code": "shutting_down",
                "detail": records[-1]["error"]["detail"],
                "retryable": True,
            },
        }
        server.start()
        body = [{"id": "a", "text": "x"}, {"id": "b", "text": "x"}]
        assert counts(client.stream(library, body)[-1]) == (2, 1, 0, 1, 0)
        types = [event["type"] for event in batch_events(client, library)]
        assert types == ["batch.started", "batch.failed", "batch.started", "batch.completed"]


def test_the_answer_is_not_to_be_buffered(client: Client, library: str) -> None:
    path = f"/v1/libraries/{library}/documents/stream"
    response: httpx.Response = client.http.post(path, content=b"")
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-store"
