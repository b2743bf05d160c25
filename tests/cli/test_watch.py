"""`headwater watch` against a server that says what a test tells it to."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from cli.conftest import Run
from cli.fake_server import Answer, CutConnection, FakeServer, as_problem
from rich.console import Console

from headwater.cli import output
from headwater.cli.backoff import Backoff
from headwater.cli.board import MARK_S, Board
from headwater.cli.client import Client, Problem
from headwater.cli.watch import LiveFeed, Step

PATH = "/v1/libraries/notes/search/live"
Json = dict[str, Any]


def hit(id: str, rank: int, score: float = 0.5, **more: Any) -> Json:
    return {
        "rank": rank,
        "chunk_id": f"{id}#0",
        "document_id": id,
        "title": id.upper(),
        "text": f"about\x1b[31m {id}",
        "score": score,
        "metadata": {},
        **more,
    }


def frame(kind: str, data: Json, id: str | None = None) -> bytes:
    made = (f"id: {id}\n" if id else "") + f"event: {kind}\ndata: {json.dumps(data)}\n\n"
    return made.encode()


def snapshot(cursor: str, *hits: Json) -> bytes:
    return frame("snapshot", {"results": list(hits), "cursor": cursor}) + frame(
        "ready", {"cursor": cursor}, cursor
    )


def delta(kind: str, cursor: str, hit: Json, *, more: bool = False) -> bytes:
    data = {"hit": hit, "cursor": cursor, **({"more": True} if more else {})}
    return frame(kind, data, None if more else cursor)


def script(server: FakeServer, *answers: list[bytes]) -> None:
    """Each connection is told its pieces and then cut."""
    left = list(answers)

    def body(pieces: list[bytes]) -> Iterator[bytes]:
        yield from pieces
        raise CutConnection

    server.on(
        "POST",
        PATH,
        lambda request: (
            Answer(body(left.pop(0)), content_type="text/event-stream")
            if left
            else as_problem("gone", "no more", 500, retryable=False)
        ),
    )


def feed(client: Client, said: list[str] | None = None) -> LiveFeed:
    quiet = Backoff(sleep=lambda seconds: None)
    say = said.append if said is not None else lambda text: None
    return LiveFeed(client, "notes", {"query": "x"}, backoff=quiet, say=say)


def ids(step: Step) -> list[str]:
    return [hit["document_id"] for hit in step.hits]


def test_the_list_is_kept_over_a_break_from_the_last_cursor(server: FakeServer) -> None:
    script(
        server,
        [
            snapshot("l.1", hit("a", 1, 0.9), hit("b", 2, 0.8)),
            delta("leave", "l.2", {"chunk_id": "b#0", "document_id": "b"}, more=True),
            delta("enter", "l.2", hit("c", 1, 0.95)),
            delta("leave", "l.3", {"chunk_id": "a#0", "document_id": "a"}, more=True),
        ],
        [
            delta("enter", "l.5", hit("d", 2, 0.93)),
            frame("ready", {"cursor": "l.5"}, "l.5"),
        ],
    )
    said: list[str] = []
    with Client(server.url) as client:
        first, second, third = islice(feed(client, said).steps(), 3)
    assert (ids(first), ids(second), ids(third)) == (["a", "b"], ["c", "a"], ["c", "d", "a"])
    assert [(kind, hit["document_id"]) for kind, hit in second.changes] == [
        ("leave", "b"),
        ("enter", "c"),
    ]
    assert [hit["rank"] for hit in third.hits] == [1, 2, 3]
    one, two = server.requests
    assert "last-event-id" not in one.headers
    assert two.headers["last-event-id"] == "l.2", "a broken group counts as not told"
    assert json.loads(two.body) == {"query": "x"}
    assert said == [said[0]]
    assert "reconnecting" in said[0]


def test_a_reset_brings_a_new_list(server: FakeServer) -> None:
    script(
        server,
        [snapshot("l.1", hit("a", 1))],
        [frame("reset", {"code": "cursor_expired"}), snapshot("l.9", hit("b", 1))],
    )
    with Client(server.url) as client:
        steps = list(islice(feed(client).steps(), 2))
    assert [kind for kind, _ in steps[1].changes] == ["leave", "enter"]
    assert ids(steps[1]) == ["b"]


def test_an_error_that_may_pass_is_waited_out_and_others_end_it(server: FakeServer) -> None:
    def error(code: str, retryable: bool) -> bytes:
        return frame("error", {"code": code, "detail": "so it is", "retryable": retryable})

    script(
        server,
        [snapshot("l.1", hit("a", 1)), error("embedder_unavailable", True)],
        [error("library_not_found", False)],
    )
    with Client(server.url) as client, pytest.raises(Problem, match="so it is"):
        list(feed(client).steps())
    assert len(server.requests) == 2


def test_lines_tell_each_change_when_there_is_no_terminal(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    script(
        server,
        [
            snapshot("l.1", hit("a", 1, 0.9), hit("b", 2, 0.8)),
            delta("update", "l.2", hit("b", 1, 0.95)),
            delta("leave", "l.3", {"chunk_id": "a#0", "document_id": "a"}),
        ],
    )
    assert run("watch", "notes", "x", "-n", "4", "--url", server.url) == 0
    told = capsys.readouterr().out
    assert [line.split()[:4] for line in told.splitlines()] == [
        ["enter", "1", "0.900", "a#0"],
        ["enter", "2", "0.800", "b#0"],
        ["update", "1", "0.950", "b#0"],
        ["leave", "2", "0.900", "a#0"],
    ]
    assert "\x1b" not in told


def test_json_is_what_the_server_said(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    script(server, [snapshot("l.1", hit("a", 1)), delta("enter", "l.2", hit("b", 2))])
    arguments = ["-k", "5", "--threshold", "0.2", "--filter", '{"y":1}', "--json", "-n", "2"]
    assert run("watch", "notes", "x", *arguments, "--url", server.url) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["event"], len(first["results"])) == ("snapshot", 1)
    assert (second["event"], second["hit"]["document_id"]) == ("enter", "b")
    assert json.loads(server.requests[0].body) == {
        "query": "x",
        "k": 5,
        "score_threshold": 0.2,
        "filter": {"y": 1},
    }


def test_what_the_server_refuses_is_said(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = as_problem("mode_not_live", "ask by meaning", 422)
    server.on("POST", PATH, lambda request: problem)
    assert run("watch", "notes", "x", "--url", server.url) == 1
    assert "mode_not_live" in capsys.readouterr().err
    assert run("watch", "notes", "x", "--filter", "{", "--url", server.url) == 2
    assert run("watch", "notes", "x", "--threshold", "nan", "--url", server.url) == 2
    assert len(server.requests) == 1


def test_a_terminal_that_cannot_draw_again_gets_lines(
    server: FakeServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumb = Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "dumb"})
    monkeypatch.setattr(output, "out", dumb)
    script(server, [snapshot("l.1", hit("a", 1, 0.9))])
    assert run("watch", "notes", "x", "-n", "1", "--url", server.url) == 0
    assert isinstance(dumb.file, io.StringIO)
    assert dumb.file.getvalue().startswith("enter     1   0.900  a#0")


def shown(board: Board) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(board.render())
    return [line.rstrip() for line in captured.get().splitlines()]


def test_changes_stand_out_for_a_moment() -> None:
    now = [0.0]
    board = Board("notes: x", clock=lambda: now[0])
    board.say("live")
    a, b, c = hit("a", 1), hit("b", 2), hit("c", 1, 0.9)
    board.show([a, b], "l.1", [("enter", a), ("enter", b)])
    assert [line[:1] for line in shown(board)[3:5]] == ["+", "+"]
    now[0] = MARK_S
    assert [line[:1] for line in shown(board)[3:5]] == [" ", " "]
    board.show([c, b], "l.2", [("leave", a), ("enter", c), ("update", b)])
    rows = shown(board)[3:6]
    assert [line[:1] for line in rows] == ["+", "~", "−"]
    assert "A" in rows[2], "who has left is still seen, below"
    assert shown(board)[-1] == "live  l.2"
    now[0] = 2 * MARK_S
    assert len(shown(board)) == 6
    assert all("\x1b" not in line for line in shown(board))


@pytest.mark.parametrize("height", [6, 12])
def test_a_small_terminal_shows_the_best_and_how_it_goes(
    monkeypatch: pytest.MonkeyPatch, height: int
) -> None:
    monkeypatch.setattr(output, "out", Console(width=100, height=height, color_system=None))
    board = Board("notes: " + 300 * "x")
    board.say("connection lost")
    board.show([hit(f"h{rank}", rank) for rank in range(1, 41)], "l.1", [])
    lines = shown(board)
    assert len(lines) == height
    assert ["H1 " in line for line in lines].index(True) == 3
    assert lines[-1] == f"{44 - height} more below  connection lost  l.1"
    board.whole = True
    assert len(shown(board)) == 44
