"""Jobs over HTTP: submitted, listed, heard, cancelled; schedules and workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jobs.gate import Gate
from jobs.types import declare
from server.client import Client, Sent, SseParser
from server.running import Server, eventually

Json = dict[str, Any]


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows the test's types of jobs."""
    folder = tmp_path_factory.mktemp("working")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", declare(folder / "packages"))
        server = Server(folder / "data", jobs__max_attempts=2, jobs__backoff=0.01, jobs__batch=50)
        with server as running:
            yield running


@pytest.fixture
def http(working: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=working.url, timeout=30) as client:
        yield client


def submit(http: httpx.Client, type: str, **fields: Any) -> Json:
    response = http.post("/v1/jobs", json={"type": type, **fields})
    assert response.status_code == 202, response.text
    job: Json = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['job_id']}"
    return job


def stands(http: httpx.Client, id: str) -> Json:
    job: Json = http.get(f"/v1/jobs/{id}").json()
    return job


def ended(http: httpx.Client, id: str) -> Json:
    eventually(lambda: stands(http, id)["finished_at"], f"the end of job {id}")
    return stands(http, id)


def heard(http: httpx.Client, id: str, **headers: str) -> Iterator[Sent]:
    """The events of one job, as far as its stream goes."""
    parser = SseParser()
    with http.stream("GET", f"/v1/jobs/{id}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        for piece in response.iter_bytes():
            yield from parser.feed(piece)


def refused(response: httpx.Response, status: int, code: str, path: str | None = None) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json().get("path") == path


def test_a_job_is_submitted_and_comes_to_its_end(http: httpx.Client) -> None:
    job = submit(http, "count", params={"to": 3}, priority=5)
    assert (job["status"], job["attempt"], job["max_attempts"]) == ("queued", 0, 2)
    done = ended(http, job["job_id"])
    assert (done["status"], done["result"]) == ("completed", {"counted": 3})
    assert done["progress"] == {
        "current": 3,
        "total": 3,
        "percentage": 100.0,
        "message": "counting",
        "rate": None,
        "eta_seconds": None,
    }
    assert done["waited_ms"] >= 0
    assert done["ran_ms"] >= 0


def test_what_is_wrong_is_refused_with_its_place(http: httpx.Client) -> None:
    post = http.post
    refused(post("/v1/jobs", json={"type": "bake"}), 422, "invalid_job", "type")
    refused(post("/v1/jobs", json={}), 422, "invalid_job")
    refused(post("/v1/jobs", json={"type": "count", "x": 1}), 422, "unknown_field")
    refused(post("/v1/jobs", content=b"{"), 400, "invalid_json")
    for name, value in (
        ("priority", 101),
        ("max_attempts", 0),
        ("not_before", "tomorrow"),
        ("not_before", "2026-11-28T03:00:00"),
        ("not_before", "9999-12-31T23:59:59-01:00"),
        ("idempotency_key", ""),
    ):
        refused(post("/v1/jobs", json={"type": "count", name: value}), 422, "invalid_job", name)
    wrong = {"type": "count", "params": {"wrong": True}}
    refused(post("/v1/jobs", json=wrong), 422, "invalid_job", "params.wrong")
    nowhere = {"type": "count", "library": "no such"}
    refused(post("/v1/jobs", json=nowhere), 404, "library_not_found")
    refused(http.get("/v1/jobs/x"), 404, "job_not_found")
    refused(http.delete("/v1/jobs/x"), 404, "job_not_found")
    refused(http.get("/v1/jobs/x/events"), 404, "job_not_found")
    refused(http.get("/v1/jobs", params={"status": "lost"}), 422, "invalid_job", "status")
    refused(http.get("/v1/jobs", params={"after": "x"}), 400, "invalid_cursor")


def test_an_idempotency_key_gives_the_first_job(http: httpx.Client) -> None:
    job = submit(http, "nothing", idempotency_key="once")
    again = http.post("/v1/jobs", json={"type": "nothing", "idempotency_key": "once"})
    assert (again.status_code, again.json()["job_id"]) == (200, job["job_id"])
    other = {"type": "nothing", "idempotency_key": "once", "params": {"x": 1}}
    refused(http.post("/v1/jobs", json=other), 409, "idempotency_mismatch")


def test_many_are_submitted_at_once(http: httpx.Client) -> None:
    jobs = [{"type": "nothing"}, {"type": "bake"}, {"type": "nothing", "idempotency_key": "b"}]
    response = http.post("/v1/jobs/batch", json={"jobs": [*jobs, jobs[-1]]})
    assert response.status_code == 202
    answer = response.json()
    assert [result["status"] for result in answer["results"]] == [
        "queued",
        "failed",
        "queued",
        "existing",
    ]
    assert answer["results"][1]["error"]["code"] == "invalid_job"
    assert answer["results"][1]["error"]["path"] == "type"
    assert (answer["queued"], answer["existing"], answer["failed"]) == (2, 1, 1)
    assert answer["results"][2]["job_id"] == answer["results"][3]["job_id"]
    too_many = {"jobs": [{"type": "nothing"}] * 51}
    refused(http.post("/v1/jobs/batch", json=too_many), 413, "too_many_items")


def test_listing_filters_and_pages(http: httpx.Client) -> None:
    ids = [submit(http, "fail", params={"retryable": False})["job_id"] for _ in range(3)]
    for id in ids:
        ended(http, id)
    found: list[str] = []
    after: str | None = None
    while True:
        wanted = {"type": "fail", "status": "failed,cancelled", "limit": "2"}
        page = http.get("/v1/jobs", params=wanted | ({"after": after} if after else {})).json()
        assert all("params" not in job for job in page["jobs"])
        found += [job["job_id"] for job in page["jobs"]]
        after = page["next"]
        if after is None:
            break
    assert found[-3:] == ids[::-1] or found[:3] == ids[::-1]


def test_a_running_job_is_cancelled_and_its_stream_ends(http: httpx.Client) -> None:
    id = submit(http, "block")["job_id"]
    told: list[Sent] = []
    for event in heard(http, id):
        told.append(event)
        state = event.data if event.event == "job" else event.data.get("data", {})
        working = state.get("progress", {}).get("message") == "working"
        if working and not any(sent.data == "asked" for sent in told):
            response = http.post(f"/v1/jobs/{id}/cancel")
            assert (response.status_code, response.json()["cancel_requested"]) == (202, True)
            told.append(Sent("asked", None, "asked"))
    kinds = [event.event for event in told]
    assert kinds[:2] == ["ready", "job"]
    assert kinds[-2:] == ["job.cancelled", "goodbye"]
    assert told[-1].data["reason"] == "ended"
    assert http.delete(f"/v1/jobs/{id}").json()["status"] == "cancelled"
    (last,) = [event for event in told if event.event == "job.cancelled"]
    assert told[-1].data["cursor"] == last.id


def test_a_job_for_the_last_moment_there_is_can_be_shown_and_listed(http: httpx.Client) -> None:
    last = "9999-12-31T23:59:59.999999Z"
    id = submit(http, "nothing", not_before=last)["job_id"]
    assert stands(http, id)["not_before"] == last
    assert id in {job["job_id"] for job in http.get("/v1/jobs").json()["jobs"]}
    http.post(f"/v1/jobs/{id}/cancel")


def test_a_waiting_job_is_cancelled_at_once(http: httpx.Client) -> None:
    id = submit(http, "nothing", not_before="2099-01-01T00:00:00Z")["job_id"]
    response = http.delete(f"/v1/jobs/{id}")
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    again = http.post(f"/v1/jobs/{id}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "queued")
    done = ended(http, id)
    assert done["status"] == "completed"
    refused(http.delete(f"/v1/jobs/{id}"), 409, "job_finished")
    refused(http.post(f"/v1/jobs/{id}/retry"), 409, "job_not_finished")


def test_a_stream_goes_on_where_the_last_one_was_cut(http: httpx.Client) -> None:
    id = submit(http, "fail", params={"until": 2})["job_id"]
    ended(http, id)
    late = list(heard(http, id))
    assert [event.event for event in late] == ["ready", "job", "goodbye"]
    assert late[1].data["status"] == "completed"
    events = http.get("/v1/events", params={"types": "job.*", "after": "beginning", "limit": 1000})
    mine = [e for e in events.json()["events"] if e["data"]["job_id"] == id]
    assert [e["type"] for e in mine] == [
        "job.queued",
        "job.started",
        "job.queued",
        "job.started",
        "job.completed",
    ]
    resumed = list(heard(http, id, **{"Last-Event-ID": mine[1]["id"]}))
    assert [event.id for event in resumed if event.id] == [e["id"] for e in mine[2:]]
    assert resumed[-1].data["reason"] == "ended"


def test_dead_jobs_are_listed_and_replayed(http: httpx.Client, tmp_path: Path) -> None:
    id = submit(http, "fail", params={"bug": True})["job_id"]
    dead = ended(http, id)
    assert (dead["status"], dead["dead"], dead["attempt"]) == ("failed", True, 2)
    assert dead["error"]["code"] == "job_crashed"
    listed = http.get("/v1/jobs/dead", params={"type": "fail"}).json()["jobs"]
    assert [job["job_id"] for job in listed] == [id]
    assert http.get("/v1/jobs/statistics").json()["dead"] == 1
    assert http.post("/v1/jobs/dead/replay", json={"type": "count"}).json() == {"replayed": 0}
    assert http.post("/v1/jobs/dead/replay").json() == {"replayed": 1}
    assert ended(http, id)["dead"]
    events = http.get("/v1/events", params={"types": "job.queued", "after": "beginning"}).json()
    reasons = [e["data"]["reason"] for e in events["events"] if e["data"]["job_id"] == id]
    assert reasons == ["submitted", "retry", "replayed", "retry"]


def test_statistics_count_by_type_and_status(http: httpx.Client) -> None:
    ended(http, submit(http, "nothing")["job_id"])
    figures = http.get("/v1/jobs/statistics").json()
    assert figures["by_type"]["nothing"]["completed"] >= 1
    assert figures["completed"] >= figures["by_type"]["nothing"]["completed"]
    assert figures["places"] == 4
    assert figures["waited_ms"]["p50"] >= 0
    types = http.get("/v1/jobs/types").json()["types"]
    assert {"nothing", "count", "batch_import"} <= set(types)


def test_a_schedule_is_made_run_paused_and_deleted(http: httpx.Client) -> None:
    new = {"name": "hourly", "type": "nothing", "cron": "0 * * * *", "timezone": "Europe/Berlin"}
    response = http.post("/v1/schedules", json=new)
    assert response.status_code == 201, response.text
    made = response.json()
    assert response.headers["location"] == f"/v1/schedules/{made['schedule_id']}"
    assert made["next_at"].endswith(":00:00.000000Z")
    refused(http.post("/v1/schedules", json=new), 409, "schedule_exists")
    assert http.get("/v1/schedules/hourly").json() == made
    assert http.get("/v1/schedules").json() == {"schedules": [made], "next": None}
    paused = http.post("/v1/schedules/hourly/pause").json()
    assert (paused["paused"], paused["next_at"]) == (True, None)
    job = http.post("/v1/schedules/hourly/run")
    assert job.status_code == 202
    assert job.json()["schedule_id"] == made["schedule_id"]
    done = ended(http, job.json()["job_id"])

    def listed(schedule: str) -> list[str]:
        jobs = http.get("/v1/jobs", params={"schedule": schedule}).json()["jobs"]
        return [one["job_id"] for one in jobs]

    for known, found in ((made["schedule_id"], 1), ("hourly", 1), ("daily", 0)):
        assert listed(known) == [done["job_id"]][:found]
    resumed = http.post("/v1/schedules/hourly/resume").json()
    assert (resumed["paused"], resumed["fired"]) == (False, 1)
    assert http.delete("/v1/schedules/hourly").status_code == 200
    assert listed(made["schedule_id"]) == [done["job_id"]]
    refused(http.get("/v1/schedules/hourly"), 404, "schedule_not_found")


def test_an_interval_fires_again_and_again(http: httpx.Client) -> None:
    new = {"name": "often", "type": "nothing", "every_seconds": 1}
    made = http.post("/v1/schedules", json=new).json()
    eventually(
        lambda: http.get("/v1/schedules/often").json()["fired"] >= 2, "the schedule to fire twice"
    )
    assert http.delete(f"/v1/schedules/{made['schedule_id']}").status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"cron": "0 3 * * *", "every_seconds": 5},
        {"cron": "61 * * * *"},
        {"cron": "0 0 30 2 *"},
        {"cron": "0 3 * * *", "timezone": "Mars/Base"},
        {"every_seconds": 0.1},
        {"cron": "0 3 * * *", "first_at": "2026-11-28T03:00:00Z"},
        {"every_seconds": 1e308},
        {"every_seconds": -1e308},
        {"cron": "0 3 * * *", "name": "a/b"},
    ],
)
def test_a_wrong_schedule_is_refused(http: httpx.Client, wrong: Json) -> None:
    response = http.post("/v1/schedules", json={"name": "x", "type": "nothing"} | wrong)
    refused(response, 422, "invalid_schedule")


def test_workers_are_read_and_set(http: httpx.Client) -> None:
    (worker,) = http.get("/v1/workers").json()["workers"]
    assert (worker["role"], worker["size"], worker["types"]) == ("server", 4, ["*"])
    (paused,) = http.put("/v1/workers", json={"mode": "pause", "size": 1}).json()["workers"]
    assert (paused["state"], paused["size"]) == ("paused", 1)
    id = submit(http, "nothing")["job_id"]
    assert stands(http, id)["status"] == "queued"
    path = f"/v1/workers/{worker['process']}"
    assert http.put(path, json={"mode": "run", "types": ["nothing"]}).json()["mode"] == "run"
    assert ended(http, id)["status"] == "completed"
    refused(http.put(path, json={"types": ["bake"]}), 422, "invalid_job", "types[0]")
    refused(http.put(path, json={"size": 65}), 422, "invalid_job", "size")
    refused(http.put(path, json={"mode": "rest"}), 422, "invalid_job")
    refused(http.put("/v1/workers/x", json={"size": 1}), 404, "worker_not_found")
    http.put("/v1/workers", json={"mode": "run", "size": None, "types": None})
    assert http.get(path).json() | {"running": 0} == worker | {"running": 0}


def test_a_job_of_a_library_is_heard_in_its_stream(working: Server, http: httpx.Client) -> None:
    with Client(working.url) as client:
        library = client.create_library()
    id = submit(http, "nothing", library=library["name"])["job_id"]
    assert ended(http, id)["library_id"] == library["id"]
    wanted = {"types": "job.*", "after": "beginning", "library_id": library["id"]}
    events = http.get("/v1/events", params=wanted).json()["events"]
    assert [e["type"] for e in events] == ["job.queued", "job.started", "job.completed"]
    assert {e["library_id"] for e in events} == {library["id"]}


def test_jobs_outlive_the_server(working: Server, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", declare(tmp_path / "packages"))
        server = Server(tmp_path / "data", jobs__reap_every=0.05)
        with (
            Gate(tmp_path / "gate") as gate,
            server,
            httpx.Client(base_url=server.url, timeout=30) as http,
        ):
            params = {"to": 4, "until": 2, "gate": str(gate)}
            id = submit(http, "count", params=params)["job_id"]
            later = submit(http, "nothing", not_before="2099-01-01T00:00:00Z")["job_id"]
            eventually(lambda: stands(http, id)["progress"]["current"] == 2, "two of four")
            server.kill()
            gate.open()
            server.start()
            assert ended(http, id)["result"] == {"counted": 4}
            assert stands(http, later)["status"] == "queued"


def test_a_stream_from_the_beginning_does_not_stop_at_an_end_that_was_not_the_last(
    http: httpx.Client,
) -> None:
    id = submit(http, "fail", params={"retryable": False})["job_id"]
    ended(http, id)
    others = [submit(http, "nothing")["job_id"] for _ in range(200)]  # more than a page
    for other in others:
        ended(http, other)
    assert http.post(f"/v1/jobs/{id}/retry").status_code == 202
    ended(http, id)
    parser = SseParser()
    path = f"/v1/jobs/{id}/events"
    with http.stream("GET", path, params={"after": "beginning"}) as response:
        told = [event for piece in response.iter_bytes() for event in parser.feed(piece)]
    assert [event.event for event in told if event.id] == [
        "job.queued",
        "job.started",
        "job.failed",
    ] * 2
