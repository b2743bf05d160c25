"""Limits of the ingest stream: what goes beyond one fails by itself, or says where to go on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from server.client import Client, ndjson
from server.conversation import Conversation
from server.running import Server, eventually
from server.streams import counts, failures, results


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with limits small enough to reach."""
    settings: dict[str, Any] = {
        "limits__line_bytes": 2_048,
        "limits__stream_lines": 700,
        "limits__chunks_per_document": 3,
        "limits__streams": 2,
        "limits__body_bytes": 4_096,
    }
    with (
        Server(tmp_path_factory.mktemp("strict") / "data", **settings) as server,
        Client(server.url) as client,
    ):
        yield client


def padded(id: str, size: int) -> bytes:
    """A document line of just that many bytes."""
    empty = len(b'{"id":"%b","text":""}' % id.encode())
    return b'{"id":"%b","text":"%b"}' % (id.encode(), b"x" * (size - empty))


def test_a_line_over_the_limit_fails_alone(strict: Client) -> None:
    library = strict.create_library()["id"]
    body = b"\n".join(
        [
            padded("just", 2_048),
            padded("over", 2_049),
            b'{"id":"next","text":"x"}',
            padded("far-over", 1_000_000),
            padded("crlf", 2_048) + b"\r",
            padded("last-over", 5_000),
        ]
    )
    for pieces in (body, [body[i : i + 1_000] for i in range(0, len(body), 1_000)]):
        records = strict.stream_raw(library, pieces)
        assert failures(records) == {
            2: "line_too_long",
            4: "line_too_long",
            6: "line_too_long",
        }
        assert records[-1]["received"] == 6
    assert set(strict.documents(library)) == {"just", "next", "crlf"}


def test_a_document_of_too_many_chunks_fails_alone(strict: Client) -> None:
    library = strict.create_library()["id"]
    records = strict.stream(
        library, [{"id": "a", "texts": ["x"] * 3}, {"id": "b", "texts": ["x"] * 4}]
    )
    assert failures(records) == {2: "too_many_items"}


def test_a_stream_of_too_many_lines_keeps_what_came_before(strict: Client) -> None:
    library = strict.create_library()["id"]
    documents = [{"id": f"d{n}", "text": "x"} for n in range(1, 1_001)]
    records = strict.stream_raw(library, b"\n\n" + ndjson(documents))
    assert records[-1]["type"] == "error"
    error = records[-1]["error"]
    assert error["code"] == "too_many_lines"
    assert "703" in error["detail"]  # two blank lines, then 700 that count
    assert len(results(records)) == 700
    assert set(strict.documents(library)) == {f"d{n}" for n in range(1, 701)}
    types = [event["type"] for event in strict.all_events(library_id=library, types="batch.*")]
    assert types == ["batch.started", "batch.failed"]
    # Just the limit is no error.
    summary = strict.stream(library, documents[:700])[-1]
    assert counts(summary) == (700, 0, 0, 700, 0)


def test_an_endless_stream_of_too_many_lines_is_answered(strict: Client) -> None:
    library = strict.create_library()["id"]
    path = f"/v1/libraries/{library}/documents/stream?response=errors"
    with Conversation(strict.url, "POST", path, chunked=True) as talk:
        for _ in range(8):
            talk.send(ndjson({"id": f"d{n}", "text": "x"} for n in range(100)))
        # The body has not ended; the answer has.
        *_, last = talk.records()
    assert last["error"]["code"] == "too_many_lines"


def test_one_stream_too_many_is_refused(strict: Client) -> None:
    library = strict.create_library()["id"]
    path = f"/v1/libraries/{library}/documents/stream"
    with (
        Conversation(strict.url, "POST", path, chunked=True) as first,
        Conversation(strict.url, "POST", path, chunked=True) as second,
    ):
        for number, talk in enumerate((first, second)):
            talk.send(b'{"id":"d%d","text":"x"}\n' % number)
            assert json.loads(talk.read_line() or b"")["status"] == "created"
        for response in (strict.http.post(path, content=b""), strict.http.get(path)):
            assert (response.status_code, response.json()["code"]) == (429, "overloaded")
            assert response.json()["retryable"] is True
            assert response.headers["retry-after"] == "1"
        first.end()
        *_, last = first.records()
        assert last["type"] == "summary"
    eventually(lambda: strict.http.get(path).status_code == 200, "a free place")


def test_a_body_limit_does_not_concern_the_stream(strict: Client) -> None:
    library = strict.create_library()["id"]
    documents: list[dict[str, Any]] = [{"id": f"d{n}", "text": "x" * 100} for n in range(500)]
    assert strict.stream(library, documents)[-1]["created"] == 500
    path = f"/v1/libraries/{library}/documents"
    response = strict.http.post(path, json={"text": "x" * 5_000})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    bomb = gzip.compress(json.dumps({"text": "x" * 5_000_000}).encode())
    response = strict.http.post(path, content=bomb, headers={"content-encoding": "gzip"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    small = gzip.compress(b'{"id":"z","text":"x"}')
    response = strict.http.post(path, content=small, headers={"content-encoding": "gzip"})
    assert response.status_code == 201
