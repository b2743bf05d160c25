"""`headwater jobs` against a server that says what the test tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cli.conftest import Run
from cli.fake_server import Answer, FakeServer, Request, as_json, as_problem

FEED = "/v1/events/stream"
JOB: dict[str, Any] = {
    "job_id": "0192-a",
    "type": "batch_delete",
    "status": "running",
    "library_id": None,
    "priority": 0,
    "attempt": 1,
    "max_attempts": 3,
    "progress": {
        "current": 50,
        "total": 200,
        "percentage": 25.0,
        "message": "deleting",
        "rate": 100.0,
        "eta_seconds": 1.5,
    },
    "error": None,
    "cancel_requested": False,
    "dead": False,
    "created_at": "2026-11-28T03:00:00.000000Z",
    "finished_at": None,
}


def frame(kind: str, data: Any, cursor: str | None = None) -> bytes:
    made = f"event: {kind}\n" + (f"id: {cursor}\n" if cursor else "")
    return f"{made}data: {json.dumps(data)}\n\n".encode()


def told(*states: dict[str, Any]) -> Answer:
    """`ready`, and these changes."""

    def body() -> Iterator[bytes]:
        yield frame("ready", {"cursor": "log.1"})
        for at, state in enumerate(states):
            now = JOB | state
            yield frame(f"job.{now['status']}", {"data": now}, f"log.{at + 2}")

    return Answer(body(), content_type="text/event-stream")


def test_listing_shows_each_job_in_a_line(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = JOB | {"job_id": "0192-b", "status": "failed", "dead": True}
    server.on("GET", "/v1/jobs", lambda request: as_json({"jobs": [dead, JOB], "next": "x"}))
    assert run("jobs", "list", "--status", "failed,running", "-n", "2", "--url", server.url) == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines() if "0192" in line]
    assert lines[0][:3] == ["0192-b", "batch_delete", "dead"]
    assert "25 %, 50 of 200, deleting" in printed.out
    assert "--limit" in printed.err
    (request,) = server.seen("GET", "/v1/jobs")
    assert request.query == {"status": "failed,running", "limit": "2"}


def test_without_a_command_jobs_are_listed(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GET", "/v1/jobs", lambda request: as_json({"jobs": [], "next": None}))
    assert run("jobs", "--url", server.url) == 0
    assert "No such jobs" in capsys.readouterr().err


def test_show_gives_every_field(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GET", "/v1/jobs/0192-a", lambda request: as_json(JOB | {"params": {"ids": ["x"]}}))
    assert run("jobs", "show", "0192-a", "--url", server.url) == 0
    printed = capsys.readouterr().out
    assert '{"ids":["x"]}' in printed
    assert run("jobs", "show", "0192-a", "--json", "--url", server.url) == 0
    assert json.loads(capsys.readouterr().out)["params"] == {"ids": ["x"]}


def test_watching_ends_with_the_last_job(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GET", "/v1/jobs/0192-a", lambda request: as_json(JOB))
    steps = [{"progress": JOB["progress"] | {"message": "tidying"}}, {"status": "completed"}]
    server.on("GET", FEED, lambda request: told(*steps))
    assert run("jobs", "watch", "0192-a", "--url", server.url) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0192-a batch_delete deleting",
        "0192-a batch_delete tidying",
        "0192-a batch_delete completed",
    ]
    assert server.seen("GET", FEED)[0].query == {"types": "job.*", "after": "now"}


def test_watching_a_job_that_fails_is_exit_code_1(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GET", "/v1/jobs/0192-a", lambda request: as_json(JOB))
    error = {"code": "disk_full", "detail": "no room\x1b[31m", "retryable": True}
    server.on("GET", FEED, lambda request: told({"status": "failed", "error": error}))
    assert run("jobs", "watch", "0192-a", "--url", server.url) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0192-a batch_delete failed: no room [31m"


def test_a_job_that_ends_before_the_feed_is_open_is_seen(server: FakeServer, run: Run) -> None:
    states = iter(["running", "completed"])
    server.on("GET", "/v1/jobs/0192-a", lambda request: as_json(JOB | {"status": next(states)}))
    server.on("GET", FEED, lambda request: told())
    assert run("jobs", "watch", "0192-a", "--url", server.url) == 0


def test_jobs_are_cancelled_and_tried_again(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def cancel(request: Request) -> Answer:
        return as_json(JOB | {"cancel_requested": True}, 202)

    server.on("POST", "/v1/jobs/0192-a/cancel", cancel)
    server.on(
        "POST", "/v1/jobs/0192-a/retry", lambda request: as_json(JOB | {"status": "queued"}, 202)
    )
    assert run("jobs", "cancel", "0192-a", "--url", server.url) == 0
    assert run("jobs", "retry", "0192-a", "--url", server.url) == 0
    assert capsys.readouterr().out == "0192-a stopping\n0192-a queued\n"
    server.on(
        "POST",
        "/v1/jobs/0192-b/cancel",
        lambda request: as_problem("job_finished", "the job has completed", 409),
    )
    assert run("jobs", "cancel", "0192-b", "--url", server.url) == 1
    assert "job_finished" in capsys.readouterr().err


def test_a_job_that_is_refused_does_not_keep_the_others_from_being_cancelled(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"code": "job_finished", "detail": "the job has completed", "retryable": False}
    server.on("POST", "/v1/jobs/0192-a/cancel", lambda request: as_json(problem, 409))
    server.on(
        "POST", "/v1/jobs/0192-b/cancel", lambda request: as_json(JOB | {"status": "cancelled"})
    )
    assert run("jobs", "cancel", "0192-a", "0192-b", "--url", server.url) == 1
    printed = capsys.readouterr()
    assert "0192-b cancelled" in printed.out
    assert "job_finished: 0192-a: the job has completed" in printed.err


def test_ids_are_not_broken_in_a_listing(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    id = "01a22138-3406-7f37-b32a-a1ab5d8d6c4d"
    job = JOB | {"job_id": id, "type": "regenerate_embeddings"}
    server.on("GET", "/v1/jobs", lambda request: as_json({"jobs": [job], "next": None}))
    assert run("jobs", "list", "--url", server.url) == 0
    assert id in capsys.readouterr().out


def test_submitting_prints_the_id(
    server: FakeServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("POST", "/v1/jobs", lambda request: as_json(JOB, 202))
    params = '{"filter":{}}'
    arguments = ("submit", "batch_delete", "-l", "notes", "--params", params, "--key", "once")
    assert run("jobs", *arguments, "--url", server.url) == 0
    assert capsys.readouterr().out == "0192-a\n"
    (request,) = server.seen("POST", "/v1/jobs")
    assert json.loads(request.body) == {
        "type": "batch_delete",
        "priority": 0,
        "library": "notes",
        "idempotency_key": "once",
        "params": {"filter": {}},
    }
    assert run("jobs", "submit", "x", "--params", "[1]", "--url", server.url) == 1
