from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import Run
from cli.fake_server import Answer, FakeLibrary, FakeServer, as_json, as_ndjson, as_problem

from headwater.cli.backoff import Backoff
from headwater.cli.client import Client, Cut, Problem
from headwater.cli.records import Identifier, Record
from headwater.cli.sender import REQUEST_LINES, Sender


def ndjson(path: Path, count: int) -> Path:
    path.write_text("".join(f'{{"id":"d{n}","text":"text {n}"}}\n' for n in range(1, count + 1)))
    return path


def records(count: int) -> list[Record]:
    return [Record(b'{"id":"d%d","text":"t"}' % n, f"line {n}", n) for n in range(1, count + 1)]


def impatient() -> Backoff:
    return Backoff(sleep=lambda seconds: None)


def test_ndjson_file_arrives_whole(server: FakeServer, run: Run, tmp_path: Path) -> None:
    library = FakeLibrary(server)
    code = run(
        "import", str(ndjson(tmp_path / "a.ndjson", 7)), "--library", "notes", "--url", server.url
    )
    assert code == 0
    assert list(library.documents) == [f"d{n}" for n in range(1, 8)]


def test_import_goes_on_behind_the_last_checkpoint_after_a_cut(server: FakeServer) -> None:
    library = FakeLibrary(server)
    library.cuts = [5, 3]
    with Client(server.url) as client:
        tally = Sender(client, "notes", backoff=impatient()).send(records(10))
    sent = [request.lines[0]["id"] for request in server.seen("POST", library.stream)]
    assert sent == ["d1", "d5", "d7"]
    # d5 and d7 were stored but not acknowledged: they are met again as they are.
    assert (tally.created, tally.unchanged, tally.failed) == (8, 2, 0)
    assert tally.reconnects == 2
    assert len(library.documents) == 10


def test_failed_lines_are_counted_once_although_they_are_sent_twice(server: FakeServer) -> None:
    library = FakeLibrary(server)
    library.cuts = [3]
    lines = [*records(2), Record(b"{nonsense", "line 3"), Record(b'{"id":"d4"}', "line 4")]
    with Client(server.url) as client:
        tally = Sender(client, "notes", backoff=impatient()).send(lines)
    assert (tally.created, tally.failed) == (3, 1)
    assert [failure.place for failure in tally.failures] == ["line 3"]


def test_import_gives_up_when_nothing_gets_through(server: FakeServer) -> None:
    library = FakeLibrary(server)
    library.cuts = [1] * 100
    now = iter(range(1000))
    with Client(server.url) as client:
        sender = Sender(
            client, "notes", retry_for=5, backoff=impatient(), monotonic=lambda: float(next(now))
        )
        with pytest.raises(Cut):
            sender.send(records(3))
    assert sender.tally.settled == 0


def test_stream_error_that_may_be_tried_again_is_tried_again(server: FakeServer) -> None:
    library = FakeLibrary(server)
    stored, answers = library._take, [True]

    def stumble(request: object) -> Answer:
        if answers:
            answers.pop()
            error = {"code": "store_failed", "detail": "disk full", "retryable": True}
            return as_ndjson({"type": "error", "error": error})
        return stored(request)  # type: ignore[arg-type]  # a Request

    server.on("POST", library.stream, stumble)
    with Client(server.url) as client:
        tally = Sender(client, "notes", backoff=impatient()).send(records(3))
    assert (tally.created, tally.reconnects) == (3, 1)


def test_final_refusal_is_not_tried_again(server: FakeServer) -> None:
    path = "/v1/libraries/notes/documents/stream"
    server.on("POST", path, lambda request: as_problem("library_not_found", "gone", 404))
    with Client(server.url) as client, pytest.raises(Problem, match="gone"):
        Sender(client, "notes", backoff=impatient()).send(records(3))
    assert len(server.seen("POST", path)) == 1


def test_requests_are_bounded(server: FakeServer) -> None:
    library = FakeLibrary(server, group=1000)
    with Client(server.url) as client:
        tally = Sender(client, "notes").send(iter(records(REQUEST_LINES + 1)))
    assert [len(request.lines) for request in server.seen("POST", library.stream)] == [
        REQUEST_LINES,
        1,
    ]
    assert tally.created == REQUEST_LINES + 1


def test_bad_lines_are_listed_and_the_exit_code_is_1(
    server: FakeServer, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeLibrary(server)
    file = tmp_path / "a.ndjson"
    file.write_text('{"id":"d1"}\n' + "\n" + "{bad\n" * 25)
    assert run("import", str(file), "-l", "notes", "--url", server.url) == 1
    printed = capsys.readouterr()
    assert "line 3  invalid_json  not JSON" in printed.err
    assert "line 22 " in printed.err
    assert "line 23 " not in printed.err
    assert "… and 5 more" in printed.err
    assert "1 created" in printed.out
    assert "25 failed" in printed.out


def test_csv_columns_are_mapped(server: FakeServer, run: Run, tmp_path: Path) -> None:
    library = FakeLibrary(server)
    file = tmp_path / "a.csv"
    file.write_text('\ufeffkey,body,name,year,empty\nk1,"two\nlines",One,2001,\nk2,b,,2002,x\n')
    columns = ["--text-column", "body", "--id-column", "key", "--title-column", "name"]
    assert run("import", str(file), "-l", "notes", "--url", server.url, *columns) == 0
    assert library.documents == {
        "k1": {"id": "k1", "text": "two\nlines", "title": "One", "metadata": {"year": "2001"}},
        "k2": {"id": "k2", "text": "b", "metadata": {"year": "2002", "empty": "x"}},
    }


def test_csv_row_of_the_wrong_width_is_a_bad_line(
    server: FakeServer, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = FakeLibrary(server)
    file = tmp_path / "a.csv"
    file.write_text("id,text\n1,one\n2\n3,three,more\n4,four\n")
    assert run("import", str(file), "-l", "notes", "--url", server.url) == 1
    assert list(library.documents) == ["1", "4"]
    printed = capsys.readouterr().err
    assert "line 3  invalid_row" in printed
    assert "line 4  invalid_row" in printed


def test_csv_without_the_text_column_names_what_there_is(
    server: FakeServer, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeLibrary(server)
    file = tmp_path / "a.csv"
    file.write_text("id,body\n1,one\n")
    assert run("import", str(file), "-l", "notes", "--url", server.url) == 1
    assert "no column 'text'; name one of id, body with --text-column" in capsys.readouterr().err


def test_folder_gives_paths_as_ids_and_headings_as_titles(
    server: FakeServer, run: Run, tmp_path: Path
) -> None:
    library = FakeLibrary(server)
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.md").write_text("no")
    (tmp_path / "sub" / "a.md").write_text("intro\n\n## The heading ##\n\ntext")
    (tmp_path / "b.txt").write_text("# no heading here")
    (tmp_path / "c.png").write_bytes(b"no")
    assert run("import", str(tmp_path), "-l", "notes", "--url", server.url) == 0
    titles = {name: made["title"] for name, made in library.documents.items()}
    assert titles == {"b.txt": "b", "sub/a.md": "The heading"}


def test_packed_file_and_json_array_are_read(server: FakeServer, run: Run, tmp_path: Path) -> None:
    library = FakeLibrary(server)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"id":"z1"}\r\n{"id":"z2"}'))
    array = tmp_path / "b.json"
    array.write_text(' [{"id":"a1"},\n {"id":"a2"}]')
    assert run("import", str(packed), "-l", "notes", "--url", server.url) == 0
    assert run("import", str(array), "-l", "notes", "--url", server.url) == 0
    assert set(library.documents) == {"z1", "z2", "a1", "a2"}


def test_lines_without_an_id_get_the_same_one_in_every_run_when_asked(
    server: FakeServer, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = FakeLibrary(server)
    file = tmp_path / "a.ndjson"
    file.write_text('{"text":"one"}\n{}\n{"id":null,"text":"three"}\n')
    for _ in range(2):
        arguments = ["import", str(file), "-l", "notes", "--ids", "line", "--url", server.url]
        assert run(*arguments) == 0
    assert set(library.documents) == {"a.ndjson:1", "a.ndjson:2", "a.ndjson:3"}
    assert "3 unchanged" in capsys.readouterr().out


def test_random_ids_differ_and_leave_other_lines_alone() -> None:
    identifier = Identifier("x")
    first, second = (json.loads(identifier.ensure(b'{"text":"a"}', 1)) for _ in range(2))
    assert first["id"] != second["id"]
    for line in (b'{"text":"a","id":"own"}', b'{"id":7}', b"[1]", b"{bad", b'"x"'):
        assert identifier.ensure(line, 1) == line


def test_standard_input_is_read_as_ndjson(server: FakeServer) -> None:
    library = FakeLibrary(server)
    command = [sys.executable, "-m", "headwater", "import", "-", "-l", "notes"]
    done = subprocess.run(
        [*command, "--url", server.url],
        input=b'{"id":"s1"}\n\n{"id":"s2"}',
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    assert list(library.documents) == ["s1", "s2"]


def test_create_makes_the_library_only_when_it_is_missing(
    server: FakeServer, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = FakeLibrary(server)
    missing = as_problem("library_not_found", "no library notes", 404)
    server.on("GET", "/v1/libraries/notes", lambda request: missing)
    server.on("POST", "/v1/libraries", lambda request: as_json({"name": "notes"}, 201))
    file = str(ndjson(tmp_path / "a.ndjson", 1))
    assert run("import", file, "-l", "notes", "--url", server.url) == 1
    assert "--create makes it" in capsys.readouterr().err
    missing.pieces = iter([b'{"code":"library_not_found","detail":"no"}'])
    assert run("import", file, "-l", "notes", "--create", "--url", server.url) == 0
    assert list(library.documents) == ["d1"]
