from __future__ import annotations

from pathlib import Path

import pytest
from cli.conftest import Run
from cli.fake_server import FakeLibrary, FakeServer, as_json

from headwater.cli import child
from headwater.cli.demo import QUERIES

HIT = {"rank": 1, "chunk_id": "a#0", "document_id": "a", "title": "os.wait", "text": "Wait."}


def test_demo_uses_the_server_that_answers(
    server: FakeServer,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = [{"id": f"d{number}", "text": "t"} for number in range(5)]
    monkeypatch.setattr("headwater.cli.corpus.docstrings", lambda: iter(documents))
    library = FakeLibrary(server, "python-docs")
    answer = {"results": [{**HIT, "score": 0.5}], "took_ms": 0.4, "cursor": "logid1.1"}
    server.on("GET", "/health", lambda request: as_json({"version": "1.0.0"}))
    server.on("DELETE", "/v1/libraries/python-docs", lambda request: as_json({"id": "0190"}))
    server.on("POST", "/v1/libraries", lambda request: as_json({}, 201))
    server.on("POST", "/v1/libraries/python-docs/search", lambda request: as_json(answer))
    assert run("demo", "--url", server.url) == 0
    printed = capsys.readouterr().out
    assert "5 documents streamed in" in printed
    assert all(f"“{query}”" in printed for query in QUERIES)
    assert printed.count("0.500  os.wait  Wait.") == len(QUERIES)
    assert f"curl -N '{server.url}/v1/events/stream'" in printed
    assert "\x1b" not in printed
    assert len(library.documents) == 5


def test_server_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADWATER_STORE__READERS", "none")
    with (
        pytest.raises(child.NotStarted, match="HEADWATER_STORE__READERS"),
        child.server(tmp_path),
    ):
        pass
