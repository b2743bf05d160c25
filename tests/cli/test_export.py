from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run
from cli.fake_server import (
    Answer,
    CutConnection,
    FakeLibrary,
    FakeServer,
    Request,
    as_json,
    as_ndjson,
    encoded,
)

from headwater.cli.backoff import Backoff
from headwater.cli.client import Client
from headwater.cli.exports import Exporter

STREAM = "/v1/libraries/notes/documents/stream"
SUMMARY = {"type": "summary", "documents": 3, "cursor": "logid1.9", "took_ms": 1}


def document(name: str, **fields: Any) -> dict[str, Any]:
    stamps = {"version": 1, "num_chunks": 1, "created_at": "x", "updated_at": "x", "cursor": "c"}
    form = fields if {"text", "texts", "chunks"} & set(fields) else {"text": f"about {name}"}
    return {"type": "document", "id": name, "title": None, "metadata": {}, **stamps, **form}


def checkpoint(token: str) -> dict[str, Any]:
    return {"type": "checkpoint", "after": token, "documents": 1}


def export(client: Client, **options: Any) -> tuple[Exporter, list[Any]]:
    file = io.BytesIO()
    chosen: dict[str, Any] = {"include": [], "raw": False, "follow": False, **options}
    backoff = Backoff(sleep=lambda seconds: None)
    exporter = Exporter(client, "notes", file, backoff=backoff, **chosen)
    exporter.run()
    return exporter, [json.loads(line) for line in file.getvalue().splitlines()]


def test_export_is_importable_again(server: FakeServer, run: Run, tmp_path: Path) -> None:
    library = FakeLibrary(server)
    exported = [
        document("a/1", text="whole\u2028text", metadata={"author": "me"}),
        document("b", texts=["one", "two"]),
        document(
            "c", chunks=[{"id": "c#0", "ordinal": 0, "text": "t", "start": None, "metadata": {}}]
        ),
    ]
    server.on("GET", STREAM, lambda request: as_ndjson(*exported, checkpoint("t"), SUMMARY))
    file = tmp_path / "out.ndjson"
    assert run("export", "notes", "-o", str(file), "--url", server.url) == 0
    assert run("import", str(file), "-l", "notes", "--url", server.url) == 0
    assert library.documents == {
        "a/1": {"id": "a/1", "text": "whole\u2028text", "metadata": {"author": "me"}},
        "b": {"id": "b", "texts": ["one", "two"]},
        "c": {"id": "c", "chunks": [{"text": "t", "metadata": {}}]},
    }
    assert list(tmp_path.iterdir()) == [file]


def test_export_resumes_from_the_last_checkpoint_and_repeats_nothing(server: FakeServer) -> None:
    def answer(request: Request) -> Answer:
        def pieces() -> Iterator[Any]:
            if "after" not in request.query:
                yield from (document("a"), checkpoint("t1"), document("b"))
                raise CutConnection
            yield from (document("b"), {"type": "deleted", "id": "a", "cursor": "c"}, SUMMARY)

        return Answer(encoded(pieces()))

    server.on("GET", STREAM, answer)
    with Client(server.url) as client:
        exporter, lines = export(client)
    assert [line["id"] for line in lines] == ["a", "b"]
    assert (exporter.documents, exporter.deleted, exporter.cursor) == (2, 1, "logid1.9")
    assert [request.query for request in server.seen("GET", STREAM)] == [{}, {"after": "t1"}]


def test_raw_keeps_the_lines_of_the_wire(server: FakeServer) -> None:
    sent = [document("a"), checkpoint("t1"), SUMMARY]
    server.on("GET", STREAM, lambda request: as_ndjson(*sent))
    with Client(server.url) as client:
        assert export(client, raw=True)[1] == sent


def test_chunks_with_vectors_replace_the_text(server: FakeServer) -> None:
    chunk = {"id": "a#0", "ordinal": 0, "text": "t", "vector": [1.0, 0.0], "start": 0, "end": 1}
    sent = document("a", text="t", chunks=[chunk])
    server.on("GET", STREAM, lambda request: as_ndjson(sent, SUMMARY))
    with Client(server.url) as client:
        _, lines = export(client, include=["chunks", "vectors"])
    assert lines == [{"id": "a", "chunks": [{"text": "t", "vector": [1.0, 0.0]}]}]
    assert server.requests[0].query == {"include": "chunks,vectors"}


def test_library_without_an_embedder_is_exported_with_its_vectors(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GET", "/v1/libraries/notes", lambda request: as_json({"embedder": "none"}))
    server.on("GET", STREAM, lambda request: as_ndjson(SUMMARY))
    assert run("export", "notes", "--url", server.url) == 0
    assert server.seen("GET", STREAM)[0].query == {"include": "chunks,vectors"}
    assert capsys.readouterr().out == ""


def test_packed_output(server: FakeServer, run: Run, tmp_path: Path) -> None:
    FakeLibrary(server)
    server.on("GET", STREAM, lambda request: as_ndjson(document("a"), SUMMARY))
    file = tmp_path / "out.ndjson.gz"
    assert run("export", "notes", "-o", str(file), "--url", server.url) == 0
    assert json.loads(gzip.decompress(file.read_bytes())) == {"id": "a", "text": "about a"}


def test_follow_writes_each_change_and_comes_back_after_goodbye(server: FakeServer) -> None:
    class Enough(Exception):
        pass

    def change(kind: str, cursor: str, found: Any) -> dict[str, Any]:
        return {"type": "change", "event": {"id": cursor, "type": kind}, "document": found}

    def answer(request: Request) -> Answer:
        if request.query.get("after") == "t1":
            return as_ndjson(document("c"), checkpoint("t2"), SUMMARY)
        return as_ndjson(
            document("a"),
            checkpoint("t1"),
            SUMMARY,
            change("document.added", "logid1.10", document("b")),
            change("document.deleted", "logid1.11", None),
            {"type": "goodbye", "cursor": "logid1.11"},
        )

    server.on("GET", STREAM, answer)
    file = io.BytesIO()

    def stop(count: int) -> None:
        if count == 3:
            raise Enough

    with Client(server.url) as client:
        backoff = Backoff(sleep=lambda seconds: None)
        exporter = Exporter(
            client, "notes", file, include=[], raw=False, follow=True, backoff=backoff
        )
        exporter.on_progress = stop
        with pytest.raises(Enough):
            exporter.run()
    assert [json.loads(line)["id"] for line in file.getvalue().splitlines()] == ["a", "b", "c"]
    assert (exporter.deleted, exporter.cursor) == (1, "logid1.11")


def test_a_filter_goes_along_and_what_left_it_is_not_written(server: FakeServer) -> None:
    asked: list[Any] = []

    def reply(request: Request) -> Answer:
        asked.append(request.query.get("filter"))
        gone = {"type": "unmatched", "id": "b", "cursor": "logid1.8"}
        return as_ndjson(gone, document("a"), checkpoint("t"), SUMMARY)

    server.on("GET", STREAM, reply)
    with Client(server.url) as client:
        exporter, lines = export(client, filter='{"year":{"$gte":2020}}')
        assert [line["id"] for line in lines] == ["a"]
        assert exporter.deleted == 1
        _, raw = export(client, filter='{"year":1}', raw=True)
        assert [line["type"] for line in raw] == ["unmatched", "document", "checkpoint", "summary"]
    assert asked == ['{"year":{"$gte":2020}}', '{"year":1}']
