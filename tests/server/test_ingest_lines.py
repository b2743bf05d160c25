"""Lines of the ingest stream: how they are framed, encoded, and what a bad one costs."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator

import pytest
import zstandard
from server.client import Client, ndjson
from server.streams import counts, failures, results

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
