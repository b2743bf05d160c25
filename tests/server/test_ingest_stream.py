"""The ingest stream: a result per line, whatever the line, and the batch's two events."""

from __future__ import annotations

import gzip
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import zstandard
from server.client import Client, Json, answer, ndjson
from server.conftest import Serve
from server.conversation import Conversation
from server.running import Server, eventually

SUMMARY = {
    "type",
    "received",
    "created",
    "updated",
    "unchanged",
    "failed",
    "batch_id",
    "cursor",
    "searchable",
    "took_ms",
}


def results(records: list[Json]) -> list[Json]:
    return [record for record in records if record["type"] == "result"]


def counts(summary: Json) -> tuple[int, int, int, int, int]:
    assert summary["type"] == "summary", summary
    return (
        summary["received"],
        summary["created"],
        summary["updated"],
        summary["unchanged"],
        summary["failed"],
    )


def failures(records: list[Json]) -> dict[int, str]:
    return {
        record["line"]: record["error"]["code"]
        for record in results(records)
        if record["status"] == "failed"
    }


# ── The good stream ─────────────────────────────────────────────────────────────────────────────


def test_every_line_has_its_result_in_order(client: Client, library: str) -> None:
    records = client.stream(
        library, [{"id": f"d{n}", "texts": ["x"] * (n % 3 + 1)} for n in range(1_500)]
    )
    found = results(records)
    assert [record["line"] for record in found] == list(range(1, 1_501))
    assert [record["id"] for record in found] == [f"d{n}" for n in range(1_500)]
    assert {record["status"] for record in found} == {"created"}
    assert [record["chunks"] for record in found] == [n % 3 + 1 for n in range(1_500)]
    assert set(found[0]) == {"type", "line", "id", "status", "chunks", "cursor"}
    positions = [int(record["cursor"].split(".")[1]) for record in found]
    assert positions == sorted(set(positions))

    # A checkpoint never speaks of a line whose result did not come before it.
    told = 0
    for record in records:
        if record["type"] == "result":
            told = record["line"]
        elif record["type"] == "checkpoint":
            assert set(record) == {"type", "durable_through_line", "cursor"}
            assert record["durable_through_line"] == told
    assert told == 1_500
    assert len([record for record in records if record["type"] == "checkpoint"]) >= 3

    summary = records[-1]
    assert set(summary) == SUMMARY
    assert counts(summary) == (1_500, 1_500, 0, 0, 0)
    assert summary["searchable"] is True
    assert client.search(library, "x", k=1)["results"]


def test_the_batch_is_told_before_during_and_after(client: Client, library: str) -> None:
    records = client.stream(library, [{"id": f"d{n}", "text": "x"} for n in range(3)] + [{}])
    batch_id = records[-1]["batch_id"]
    events = client.all_events(library_id=library)[1:]
    assert [event["type"] for event in events] == [
        "batch.started",
        "document.added",
        "document.added",
        "document.added",
        "batch.completed",
    ]
    assert all(event["data"]["batch_id"] == batch_id for event in events)
    assert events[-1]["id"] == records[-1]["cursor"]
    data = events[-1]["data"]
    assert (data["received"], data["created"], data["failed"]) == (4, 3, 1)
    added = events[1]["data"]
    assert {"document_id", "title", "num_chunks", "version", "metadata", "batch_id"} <= set(added)


def test_a_batch_may_have_the_clients_own_name(client: Client, library: str) -> None:
    records = client.stream(library, [{"text": "x"}], batch_id="nächtlich 1")
    assert records[-1]["batch_id"] == "nächtlich 1"
    (event,) = client.all_events(library_id=library, types="batch.completed")
    assert event["data"]["batch_id"] == "nächtlich 1"
    for wrong in ("", "x" * 129):
        path = f"/v1/libraries/{library}/documents/stream"
        response = client.http.post(path, params={"batch_id": wrong})
        assert response.status_code == 422


def test_an_empty_body_is_a_summary_of_zeros_and_no_event(client: Client, library: str) -> None:
    before = client.all_events(library_id=library)
    for body in (b"", b"\n", b"\xef\xbb\xbf", b" \r\n\t\n", b"\xef\xbb\xbf\r\n"):
        (summary,) = client.stream_raw(library, body)
        assert counts(summary) == (0, 0, 0, 0, 0)
        assert summary["batch_id"] is None
        assert summary["cursor"]
        assert summary["searchable"] is True
    assert client.all_events(library_id=library) == before


def test_the_same_stream_again_is_unchanged(client: Client, library: str) -> None:
    documents = [{"id": f"d{n}", "text": f"text {n}", "metadata": {"n": n}} for n in range(600)]
    first = results(client.stream(library, documents))
    again = client.stream(library, documents)
    assert counts(again[-1]) == (600, 0, 0, 600, 0)
    assert [r["cursor"] for r in results(again)] == [r["cursor"] for r in first]
    documents[7]["text"] = "other"
    documents[8]["title"] = "new"
    documents.append({"id": "d600", "text": "x"})
    third = client.stream(library, documents)
    assert counts(third[-1]) == (601, 1, 2, 598, 0)
    told = Counter(event["type"] for event in client.all_events(library_id=library))
    assert told["document.added"] == 601
    assert told["document.updated"] == 2


def test_duplicates_are_applied_in_order(client: Client, library: str) -> None:
    documents = [{"id": "a", "text": text} for text in ("1", "2", "2", "1")]
    documents += [{"id": f"f{n}", "text": "filler"} for n in range(600)]  # another group
    documents += [{"id": "a", "text": "1"}, {"id": "a", "text": "3"}]
    records = client.stream(library, documents)
    mine = [record["status"] for record in results(records) if record["id"] == "a"]
    assert mine == ["created", "updated", "unchanged", "updated", "unchanged", "updated"]
    found = client.get(library, "a")
    assert found is not None
    assert (found["text"], found["version"]) == ("3", 4)
    assert [hit["text"] for hit in client.search(library, "3", k=1_000)["results"]].count("3") == 1
    figures = answer(client.http.get(f"/v1/libraries/{library}"))
    assert (figures["documents"], figures["chunks"]) == (601, 601)


def test_response_errors_leaves_out_the_good_ones(client: Client, library: str) -> None:
    body = b'{"id":"a","text":"x"}\n{"id":"b"}\n{"id":"c","text":"x"}\n'
    records = client.stream_raw(library, body, response="errors")
    assert [record["type"] for record in records] == ["result", "checkpoint", "summary"]
    assert (records[0]["line"], records[0]["id"], records[0]["status"]) == (2, "b", "failed")
    assert records[1]["durable_through_line"] == 3
    assert counts(records[2]) == (3, 2, 0, 0, 1)


def test_response_summary_is_one_line(client: Client, library: str) -> None:
    body = b'{"id":"a","text":"x"}\n{"id":"b"}\n'
    (summary,) = client.stream_raw(library, body, response="summary")
    assert counts(summary) == (2, 1, 0, 0, 1)
    path = f"/v1/libraries/{library}/documents/stream"
    response = client.http.post(path, params={"response": "all"})
    assert (response.status_code, response.json()["parameter"]) == (422, "response")


def test_wait_durable_does_not_claim_to_be_searchable(client: Client, library: str) -> None:
    summary = client.stream(library, [{"id": "a", "text": "x"}], wait="durable")[-1]
    assert summary["searchable"] is False
    found = client.search(library, "x", min_cursor=summary["cursor"])
    assert [hit["document_id"] for hit in found["results"]] == ["a"]


def test_checkpoints_of_failed_lines_name_a_real_position(client: Client, library: str) -> None:
    records = client.stream_raw(library, b"bad\n")
    (checkpoint,) = [record for record in records if record["type"] == "checkpoint"]
    assert int(checkpoint["cursor"].split(".")[1]) > 0
    assert checkpoint["durable_through_line"] == 1
    assert counts(records[-1]) == (1, 0, 0, 0, 1)


# ── Framing ─────────────────────────────────────────────────────────────────────────────────────

ENDINGS = [
    (b'{"id":"a","text":"x"}\n{"id":"b","text":"y"}\n', [1, 2]),
    (b'{"id":"a","text":"x"}\n{"id":"b","text":"y"}', [1, 2]),
    (b'{"id":"a","text":"x"}\r\n{"id":"b","text":"y"}\r\n', [1, 2]),
    (b'\xef\xbb\xbf{"id":"a","text":"x"}\n\n\r\n  \n{"id":"b","text":"y"}\n\n', [1, 5]),
    (b'\n \t{"id":"a","text":"x"} \n{"id":"b","text":"y"}\t', [2, 3]),
]


@pytest.mark.parametrize(("body", "lines"), ENDINGS)
def test_line_endings_blank_lines_and_the_byte_order_mark(
    client: Client, library: str, body: bytes, lines: list[int]
) -> None:
    records = client.stream_raw(library, body)
    assert [(r["line"], r["id"], r["status"]) for r in results(records)] == [
        (lines[0], "a", "created"),
        (lines[1], "b", "created"),
    ]
    assert records[-1]["received"] == 2


@pytest.mark.parametrize(("body", "lines"), ENDINGS)
def test_lines_may_be_split_at_any_byte(
    client: Client, library: str, body: bytes, lines: list[int]
) -> None:
    records = client.stream_raw(library, (body[i : i + 1] for i in range(len(body))))
    assert [(r["line"], r["id"], r["status"]) for r in results(records)] == [
        (lines[0], "a", "created"),
        (lines[1], "b", "created"),
    ]


def test_characters_of_several_bytes_may_be_split(client: Client, library: str) -> None:
    text = "日本語 😀 größe" * 5
    body = json.dumps({"id": "a", "text": text}, ensure_ascii=False).encode() + b"\n"
    client.stream_raw(library, (body[i : i + 3] for i in range(0, len(body), 3)))
    found = client.get(library, "a")
    assert found is not None
    assert found["text"] == text


BODY = ndjson([{"id": f"d{n}", "text": f"words of number {n}"} for n in range(1_200)])


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:100]) + gzip.compress(BODY[100:])),
        ("zstd", zstandard.compress(BODY)),
        ("zstd", zstandard.compress(BODY[:100]) + zstandard.compress(BODY[100:])),
        ("identity", BODY),
    ],
)
def test_encoded_bodies(client: Client, library: str, encoding: str, body: bytes) -> None:
    rng = random.Random(1)

    def pieces() -> Iterator[bytes]:
        place = 0
        while place < len(body):
            size = rng.choice([1, 7, 500, 20_000])
            yield body[place : place + size]
            place += size

    records = client.stream_raw(library, pieces(), {"content-encoding": encoding})
    assert counts(records[-1]) == (1_200, 1_200, 0, 0, 0)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "nonsense"])
def test_another_encoding_is_refused(client: Client, library: str, encoding: str) -> None:
    response = client.http.post(
        f"/v1/libraries/{library}/documents/stream",
        content=BODY,
        headers={"content-encoding": encoding},
    )
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)[:-4]),
        ("gzip", gzip.compress(BODY) + b"rest"),
        ("gzip", b"no gzip at all"),
        ("zstd", zstandard.compress(BODY)[:-4]),
        ("zstd", b"no zstd at all"),
    ],
)
def test_a_damaged_encoding_ends_the_stream_with_an_error(
    client: Client, library: str, encoding: str, body: bytes
) -> None:
    records = client.stream_raw(library, body, {"content-encoding": encoding})
    assert records[-1]["type"] == "error"
    assert records[-1]["error"]["code"] == "invalid_input"
    assert records[-1]["error"]["retryable"] is False
    # What was told durable is there, and an open batch was closed.
    stored = client.documents(library)
    assert {record["id"] for record in results(records)} <= set(stored)
    types = [event["type"] for event in client.all_events(library_id=library, types="batch.*")]
    assert types in ([], ["batch.started", "batch.failed"])


# ── Bad lines ───────────────────────────────────────────────────────────────────────────────────

BAD_LINES: list[tuple[bytes, str]] = [
    (b"{", "invalid_json"),
    (b"plain words", "invalid_json"),
    (b'{"text":"a"},', "invalid_json"),
    (b'{"text":"a"}{"text":"b"}', "invalid_json"),
    (b"{'text':'a'}", "invalid_json"),
    (b'{"text":"\xff\xfe"}', "invalid_json"),
    (b'{"text":"\xed\xa0\x80"}', "invalid_json"),
    (b'{"text":"\\ud800"}', "invalid_json"),
    (b'{"text":"a","metadata":{"n":NaN}}', "invalid_json"),
    (b'{"text":"a","metadata":{"n":Infinity}}', "invalid_json"),
    (b'{"text":"a","metadata":{"n":-Infinity}}', "invalid_json"),
    (b'{"text":"a","metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_document"),
    (b'{"text":"a","metadata":{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "invalid_json"),
    (b'{"text":"a","metadata":{"n":' + b"[" * 500 + b"]" * 500 + b"}}", "invalid_document"),
    (b"\x00", "invalid_json"),
    (b'{"text":"a\x00"}', "invalid_json"),
    (b"null", "invalid_document"),
    (b"[]", "invalid_document"),
    (b'"text"', "invalid_document"),
    (b"1e999", "invalid_document"),
    (b"{}", "invalid_document"),
    (b'{"text":null}', "invalid_document"),
    (b'{"text":7}', "invalid_document"),
    (b'{"text":["a"]}', "invalid_document"),
    (b'{"texts":"a"}', "invalid_document"),
    (b'{"texts":[]}', "invalid_document"),
    (b'{"text":"a","texts":["b"]}', "invalid_document"),
    (b'{"text":""}', "invalid_document"),
    (b'{"text":"  "}', "invalid_document"),
    (b'{"text":"a\\u0000"}', "invalid_document"),
    (b'{"text":"a","title":"\\u0000"}', "invalid_document"),
    (b'{"text":"a","metadata":{"\\u0000":1}}', "invalid_document"),
    (b'{"text":"a","metadata":7}', "invalid_document"),
    (b'{"text":"a","metadata":{"n":1e999}}', "invalid_document"),
    (b'{"text":"a","tags":"x"}', "invalid_document"),
    (b'{"text":"a","id":7}', "invalid_document"),
    (b'{"text":"a","id":""}', "invalid_document"),
    (b'{"text":"a","id":"%s"}' % (b"x" * 257), "invalid_document"),
    (b'{"text":"a","colour":"red"}', "unknown_field"),
    (b'{"text":"a","Text":"b"}', "unknown_field"),
    (b'{"chunks":[{"text":"a","vectors":[]}]}', "unknown_field"),
    (b'{"chunks":[{}]}', "invalid_document"),
    (b'{"chunks":[{"vector":[1,2]}]}', "dimension_mismatch"),
    (b'{"chunks":[{"vector":[]}]}', "dimension_mismatch"),
    (b'{"chunks":[{"vector":["a"]}]}', "invalid_document"),
    (b'{"chunks":[{"vector":[%s1e39]}]}' % (b"0," * 255), "invalid_vector"),
    (b'{"chunks":[{"vector":[%sNaN]}]}' % (b"0," * 255), "invalid_json"),
    (b'{"chunks":[{"vector":[%s1e999]}]}' % (b"0," * 255), "invalid_document"),
]


def test_each_bad_line_has_its_error_and_harms_no_neighbour(client: Client, library: str) -> None:
    lines: list[bytes] = []
    wanted: dict[int, str] = {}
    for number, (line, error) in enumerate(BAD_LINES):
        lines.append(b'{"id":"good-%d","text":"fine"}' % number)
        lines.append(line)
        wanted[len(lines)] = error
    lines.append(b'{"id":"good-last","text":"fine"}')
    records = client.stream_raw(library, b"\n".join(lines))
    assert failures(records) == wanted
    for record in results(records):
        if record["status"] == "failed":
            assert set(record) == {"type", "line", "id", "status", "error"}
            assert set(record["error"]) == {"code", "detail", "retryable"}
            assert record["error"]["retryable"] is False
            assert 0 < len(record["error"]["detail"]) < 1_000
        else:
            assert record["status"] == "created"
    good = {f"good-{number}" for number in range(len(BAD_LINES))} | {"good-last"}
    assert set(client.documents(library)) == good
    assert counts(records[-1]) == (len(lines), len(good), 0, 0, len(BAD_LINES))


def test_a_failed_line_names_its_id_when_it_could_be_read(client: Client, library: str) -> None:
    body = b'{"id":"known","text":""}\n{"id":"lost","text":7}\n{"id":"x'
    records = client.stream_raw(library, body)
    assert [record["id"] for record in results(records)] == ["known", None, None]


def test_a_library_without_an_embedder_takes_vectors_alone(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=3)["id"]
    records = client.stream(
        library,
        [
            {"id": "a", "chunks": [{"vector": [1, 2, 3]}]},
            {"id": "b", "text": "x"},
            {"id": "c", "texts": ["x"]},
            {"id": "d", "chunks": [{"vector": [1, 2, 3]}, {"text": "x"}]},
            {"id": "e", "chunks": [{"vector": [1, 2, 3, 4]}]},
            {"id": "f", "chunks": [{"text": "x", "vector": [0, 0, 0]}]},
        ],
    )
    assert failures(records) == {
        2: "invalid_vector",
        3: "invalid_vector",
        4: "invalid_vector",
        5: "dimension_mismatch",
    }
    assert set(client.documents(library)) == {"a", "f"}


# ── Limits ──────────────────────────────────────────────────────────────────────────────────────


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


# ── Broken connections ──────────────────────────────────────────────────────────────────────────


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
