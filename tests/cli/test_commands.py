from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Run
from cli.fake_server import FakeServer, Request, as_json, as_problem

from headwater import __version__
from headwater.cli.client import Client, Problem
from headwater.settings import Section, Settings

HIT = {
    "rank": 1,
    "chunk_id": "a#0",
    "document_id": "a",
    "title": "os.wait",
    "text": "\n  Wait for a child.\nMore",
    "score": 0.5,
    "metadata": {},
}


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"headwater {__version__}\n"


def test_refused_connection_says_how_to_start_a_server(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        assert run("libraries", "--url", f"http://127.0.0.1:{port}") == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"nothing answers at http://127.0.0.1:{port}" in printed
    assert "headwater serve" in printed


def test_problem_is_one_line_with_code_and_detail(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/v1/libraries/no such/search"
    detail = "no library 'no such';\nGET /v1/libraries lists them"
    server.on("POST", path, lambda request: as_problem("library_not_found", detail, 404))
    assert run("search", "no such", "x", "--url", server.url) == 1
    printed = capsys.readouterr()
    assert printed.err == (
        "library_not_found: no library 'no such'; GET /v1/libraries lists them\n"
    )
    assert printed.out == ""


def test_answer_that_is_no_problem_json_is_still_told(server: FakeServer) -> None:
    from cli.fake_server import Answer

    server.on("GET", "/x", lambda request: Answer(iter([b"<html>"]), 502, "text/html"))
    with Client(server.url) as client, pytest.raises(Problem) as refused:
        client.request("GET", "/x")
    assert (refused.value.code, refused.value.retryable) == ("http_502", True)


def test_search_shows_score_title_and_first_line(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"results": [HIT], "cursor": "logid1.1", "took_ms": 0.4}
    server.on("POST", "/v1/libraries/notes/search", lambda request: as_json(answer))
    assert run("search", "notes", "wait", "-k", "3", "--url", server.url) == 0
    assert capsys.readouterr().out == " 0.500  a#0  os.wait  Wait for a child.\n"
    assert server.requests[0].lines == [{"query": "wait", "k": 3}]
    assert run("search", "notes", "wait", "--json", "--url", server.url) == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_libraries_are_listed_over_all_pages(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def page(request: Request) -> object:
        first = "after" not in request.query
        library = {
            "name": "one" if first else "two",
            "documents": 1234,
            "chunks": 5,
            "embedder": "static",
            "dimension": 256,
            "metric": "cosine",
            "updated_at": "2026-01-02T03:04:05.000000Z",
        }
        return as_json({"libraries": [library], "next": "p2" if first else None})

    server.on("GET", "/v1/libraries", page)  # type: ignore[arg-type]  # returns an Answer
    assert run("libraries", "--url", server.url) == 0
    printed = capsys.readouterr().out
    assert re.search(r"one +1,234 +5 +static +256 +cosine +2026-01-02 03:04:05", printed)
    assert "two" in printed


def test_library_is_created_and_deleted(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    library = {"id": "0190", "name": "v", "documents": 2, "metadata": {"a": 1}}
    server.on("POST", "/v1/libraries", lambda request: as_json(library, 201))
    server.on("GET", "/v1/libraries/v", lambda request: as_json(library))
    server.on("DELETE", "/v1/libraries/v", lambda request: as_json({"id": "0190"}))
    options = ["--embedder", "none", "--dimension", "3", "--metadata", '{"a":1}']
    assert run("libraries", "create", "v", *options, "--url", server.url) == 0
    body = {"name": "v", "embedder": "none", "dimension": 3, "metadata": {"a": 1}}
    assert server.seen("POST", "/v1/libraries")[0].lines == [body]
    assert run("libraries", "delete", "v", "--yes", "--url", server.url) == 0
    assert "Deleted v with 2 documents." in capsys.readouterr().out
    assert len(server.seen("DELETE", "/v1/libraries/v")) == 1


def test_settings_documents_every_setting(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("settings", "--json") == 0
    entries = {entry["variable"]: entry for entry in json.loads(capsys.readouterr().out)}
    expected = set()
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            expected |= {f"HEADWATER_{name}__{inner}".upper() for inner in kind.model_fields}
        else:
            expected.add(f"HEADWATER_{name}".upper())
    assert set(entries) == expected
    assert all(entry["description"].endswith(".") for entry in entries.values())


def test_settings_shows_what_the_environment_changes(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_STORE__DURABILITY", "normal")
    monkeypatch.setenv("HEADWATER_FEEDS__HEARTBEAT", "2.5")
    assert run("settings") == 0
    printed = capsys.readouterr().out
    assert re.search(r"HEADWATER_STORE__DURABILITY +normal +full", printed)
    assert re.search(r"HEADWATER_FEEDS__HEARTBEAT +2.5 +15", printed)


def test_wrong_setting_is_named(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_STORE__READERS", "none")
    assert run("settings") == 1
    assert "HEADWATER_STORE__READERS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWATER_JOBS__POLL", "0"),
        ("HEADWATER_LOG__TRIM_EVERY", "0.001"),
        ("HEADWATER_FEEDS__STALL", "-1"),
    ],
)
def test_time_that_would_keep_the_server_spinning_is_refused(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert run("settings") == 1
    assert name in capsys.readouterr().err


def test_doctor_wants_a_folder(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("doctor", "--data", str(tmp_path / "missing")) == 1
    assert "--data" in capsys.readouterr().err


def test_command_line_loads_no_server_parts() -> None:
    code = "import sys, headwater.cli; print(*sys.modules)"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20
    )
    heavy = {"numpy", "faiss", "fastapi", "sqlalchemy", "pydantic", "uvicorn", "model2vec"}
    assert heavy.isdisjoint(made.stdout.split())
