"""Files in and out of jobs, over real sockets: sent, imported, exported, downloaded in pieces."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from server.client import Client, Events, Json, answer, ndjson
from server.running import Server, eventually

parquet = pytest.importorskip("pyarrow.parquet")

Serve = Callable[..., Server]
ENDED = ("completed", "failed", "cancelled")


def ended(client: Client, job: Json, seconds: float = 30) -> Json:
    """The job once it has ended."""
    deadline = time.monotonic() + seconds
    with client.events(types="job.*") as events:
        while True:
            now = answer(client.http.get(f"/v1/jobs/{job['job_id']}"))
            if now["status"] in ENDED:
                return now
            assert time.monotonic() < deadline, now
            next(events)


def post(client: Client, type: str, **body: Any) -> Json:
    return answer(client.http.post(f"/v1/jobs/{type}", json=body))


def send(client: Client, library: str, body: bytes, kind: str, **params: Any) -> Json:
    encoding = params.pop("packed", None)
    headers = {"content-type": kind} | ({"content-encoding": encoding} if encoding else {})
    response = client.http.post(
        "/v1/jobs/batch-import",
        content=body,
        params={"library": library, **params},
        headers=headers,
    )
    made = answer(response)
    assert response.headers["location"] == f"/v1/jobs/{made['job_id']}"
    return made


def documents(count: int) -> list[Json]:
    return [
        {"id": f"d{number}", "text": f"text number {number}", "metadata": {"n": number}}
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, str]]:
    import pyarrow

    rows = documents(300)
    csv = "key,words,n\n" + "".join(f"{d['id']},{d['text']},{d['metadata']['n']}\n" for d in rows)
    table = io.BytesIO()
    parquet.write_table(
        pyarrow.table(
            {
                "id": [d["id"] for d in rows],
                "text": [d["text"] for d in rows],
                "n": [d["metadata"]["n"] for d in rows],
            }
        ),
        table,
    )
    return {
        "ndjson": (ndjson(rows), "application/x-ndjson"),
        "csv": (csv.encode(), "text/csv"),
        "parquet": (table.getvalue(), "application/vnd.apache.parquet"),
    }


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
@pytest.mark.parametrize("packed", [None, "gzip"])
def test_file_that_is_sent_is_imported(
    client: Client, library: str, files: dict[str, tuple[bytes, str]], kind: str, packed: str | None
) -> None:
    body, media_type = files[kind]
    params: dict[str, Any] = {"packed": packed} if packed else {}
    if kind == "csv":
        params |= {"id_column": "key", "text_column": "words"}
    job = send(client, library, gzip.compress(body) if packed else body, media_type, **params)
    done = ended(client, job)
    assert done["status"] == "completed", done
    assert done["result"] | {"created": 300, "failed": 0, "received": 300} == done["result"]
    assert done["progress"]["percentage"] == 100.0
    held = client.documents(library)
    assert len(held) == 300
    assert held["d7"]["text"] == "text number 7"
    assert str(held["d7"]["metadata"]["n"]) == "7"
    told = [event["type"] for event in client.all_events(library_id=library, types="batch.*,job.*")]
    assert [kind for kind in told if kind != "job.progress"] == [
        "job.queued",
        "job.started",
        "batch.started",
        "batch.completed",
        "job.completed",
    ]


def test_errors_of_lines_can_be_downloaded(client: Client, library: str) -> None:
    body = ndjson(documents(5)) + b'no json\n{"id":"x"}\n'
    done = ended(client, send(client, library, body, "application/x-ndjson"))
    assert done["result"]["failed"] == 2
    told = client.http.get(f"/v1/jobs/{done['job_id']}/errors")
    errors = [json.loads(line) for line in told.text.splitlines()]
    assert [(e["line"], e["id"], e["error"]["code"]) for e in errors] == [
        (6, None, "invalid_json"),
        (7, "x", "invalid_document"),
    ]
    part = client.http.get(f"/v1/jobs/{done['job_id']}/errors", headers={"range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, told.content[:10])


def test_upload_that_breaks_off_or_is_refused_leaves_nothing(serve: Serve) -> None:
    server = serve(transfer__upload_bytes=2_000)
    with Client(server.url) as client:
        library = client.create_library()["id"]

        def broken() -> Any:
            yield ndjson(documents(3))
            raise RuntimeError("the sender is gone")

        with pytest.raises(RuntimeError):
            client.http.post(
                "/v1/jobs/batch-import",
                content=broken(),
                params={"library": library},
                headers={"content-type": "application/x-ndjson"},
            )
        for params, body, code in (
            ({"library": library}, ndjson(documents(100)), "body_too_large"),
            ({"library": "none"}, b"{}", "library_not_found"),
            ({}, b"{}", "invalid_job"),
            ({"library": library, "max_errors": "-1"}, b"{}", "invalid_job"),
        ):
            problem = client.http.post(
                "/v1/jobs/batch-import",
                content=body,
                params=params,
                headers={"content-type": "application/x-ndjson"},
            ).json()
            assert problem["code"] == code
        told = client.http.post(
            "/v1/jobs/batch-import",
            content=b"x",
            params={"library": library},
            headers={"content-type": "text/html"},
        ).json()
        assert (told["code"], told["path"]) == ("invalid_job", "format")
        folder = server.data / "jobs"
        eventually(
            lambda: not folder.exists() or not list(folder.iterdir()),
            "what was sent to be gone",
            said=server.said,
        )
        assert answer(client.http.get("/v1/jobs"))["jobs"] == []


def test_same_key_gives_the_same_job_and_keeps_one_file(client: Client, library: str) -> None:
    body = ndjson(documents(3))
    one = send(client, library, body, "application/x-ndjson", idempotency_key=f"once-{library}")
    two = send(client, library, body, "application/x-ndjson", idempotency_key=f"once-{library}")
    assert one["job_id"] == two["job_id"]
    assert ended(client, one)["result"]["created"] == 3


def test_path_is_imported_from_the_allowed_folder_only(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.ndjson").write_bytes(ndjson(documents(10)))
    (folder / "link.ndjson").symlink_to(folder / "a.ndjson")
    with Client(serve(transfer__import_folder=folder).url) as client:
        library = client.create_library()["id"]
        done = ended(client, post(client, "batch-import", library=library, path="a.ndjson"))
        assert done["result"]["created"] == 10
        for path in ("../data/headwater.db", "/etc/passwd"):
            problem = client.http.post(
                "/v1/jobs/batch-import", json={"library": library, "path": path}
            )
            assert (problem.status_code, problem.json()["code"]) == (422, "path_not_allowed")
        for path, code in (
            ("none.ndjson", "file_not_found"),
            ("link.ndjson", "path_not_allowed"),
        ):
            failed = ended(client, post(client, "batch-import", library=library, path=path))
            assert (failed["status"], failed["error"]["code"]) == ("failed", code)


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_export_is_downloaded_whole_and_in_ranges(
    client: Client, library: str, format: str
) -> None:
    client.stream(library, documents(200), response="summary")
    job = post(client, "batch-export", library=library, format=format, include=["vectors"])
    early = client.http.get(f"/v1/jobs/{job['job_id']}/download")
    assert early.status_code in (200, 404)
    done = ended(client, job)
    made = done["result"]
    assert (done["status"], made["documents"]) == ("completed", 200)
    whole = client.http.get(made["download"])
    assert whole.status_code == 200
    assert whole.headers["content-length"] == str(made["bytes"])
    assert hashlib.sha256(whole.content).hexdigest() == made["sha256"]
    assert made["file"] in whole.headers["content-disposition"]
    etag, size = whole.headers["etag"], made["bytes"]

    def part(range: str, **more: str) -> httpx.Response:
        return client.http.get(made["download"], headers={"range": range, **more})

    for range, wanted in (
        ("bytes=0-0", whole.content[:1]),
        ("bytes=10-", whole.content[10:]),
        ("bytes=-7", whole.content[-7:]),
        (f"bytes=5-{size + 100}", whole.content[5:]),
    ):
        got = part(range)
        assert (got.status_code, got.content) == (206, wanted)
        assert got.headers["content-range"].endswith(f"/{size}")
        assert part(range, **{"if-range": etag}).status_code == 206
        assert part(range, **{"if-range": '"else"'}).content == whole.content
    for range in ("bytes=5-1", "lines=1-2", "bytes=0-1,3-4", "bytes=-"):
        assert part(range).status_code == 200
    refused = part(f"bytes={size}-")
    assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")
    assert refused.headers["content-range"] == f"bytes */{size}"
    assert part("bytes=-0").headers["content-range"] == f"bytes */{size}"
    last = whole.headers["last-modified"]
    assert part("bytes=0-0", **{"if-range": last}).status_code == 206


@pytest.mark.parametrize(
    ("packing", "media_type"), [("gzip", "application/gzip"), ("zstd", "application/zstd")]
)
def test_compressed_export_is_told_as_what_it_is(
    client: Client, library: str, packing: str, media_type: str
) -> None:
    client.stream(library, documents(20), response="summary")
    done = ended(client, post(client, "batch-export", library=library, compression=packing))
    whole = client.http.get(done["result"]["download"])
    assert whole.headers["content-type"] == media_type
    assert hashlib.sha256(whole.content).hexdigest() == done["result"]["sha256"]


def test_length_of_a_file_can_be_asked_for(client: Client, library: str) -> None:
    client.stream(library, documents(20), response="summary")
    export = ended(client, post(client, "batch-export", library=library))
    broken = send(client, library, b"{}\n", "application/x-ndjson")
    ended(client, broken)
    for path in (export["result"]["download"], f"/v1/jobs/{broken['job_id']}/errors"):
        head, whole = client.http.head(path), client.http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "etag", "accept-ranges"):
            assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json", ""])
def test_import_in_json_needs_no_media_type(client: Client, library: str, kind: str) -> None:
    body = json.dumps({"library": library, "documents": [{"id": "a", "text": "x"}]}).encode()
    headers = {"content-type": kind} if kind else {}
    job = answer(client.http.post("/v1/jobs/batch-import", content=body, headers=headers))
    assert ended(client, job)["result"]["created"] == 1


@pytest.mark.parametrize(
    ("kind", "params", "path"),
    [
        ("application/json", {}, "format"),
        ("application/x-www-form-urlencoded", {}, "format"),
        ("text/csv", {"max_error": "3"}, "max_error"),
    ],
)
def test_parameters_that_would_be_passed_over_are_refused(
    client: Client, library: str, kind: str, params: dict[str, str], path: str
) -> None:
    problem = client.http.post(
        "/v1/jobs/batch-import",
        params={"library": library, **params},
        content=b'{"documents":[{"text":"x"}]}',
        headers={"content-type": kind},
    )
    assert (problem.status_code, problem.json()["code"]) == (422, "invalid_job")
    assert problem.json()["path"] == path
    assert answer(client.http.get("/v1/jobs", params={"library": library}))["jobs"] == []


def test_cursor_of_a_job_that_changed_nothing_can_be_read_from(
    client: Client, library: str
) -> None:
    done = ended(client, post(client, "batch-delete", library=library, ids=["a"]))
    page = answer(client.http.get("/v1/events", params={"after": done["result"]["cursor"]}))
    told = [event["type"] for event in page["events"]]
    assert "job.completed" in told
    assert "library.created" not in told


def test_export_expires_and_says_so(serve: Serve) -> None:
    with Client(serve(transfer__export_keep=0.2).url) as client:
        library = client.create_library()["id"]
        done = ended(client, post(client, "batch-export", library=library))
        path = done["result"]["download"]
        eventually(lambda: client.http.get(path).status_code == 410, "the file to expire")
        assert client.http.get(path).json()["code"] == "file_expired"
        assert answer(client.http.get(f"/v1/jobs/{done['job_id']}"))["status"] == "completed"


def test_files_are_of_the_jobs_that_make_them(client: Client, library: str) -> None:
    done = ended(client, post(client, "batch-delete", library=library, ids=["a"]))
    assert done["result"]["deleted"] == 0
    for name in ("download", "errors"):
        problem = client.http.get(f"/v1/jobs/{done['job_id']}/{name}")
        assert (problem.status_code, problem.json()["code"]) == (404, "file_not_found")
        assert client.http.get(f"/v1/jobs/none/{name}").json()["code"] == "job_not_found"


def test_deletes_indexes_and_retries_run_as_jobs(client: Client, library: str) -> None:
    client.stream(library, documents(100), response="summary")
    assert client.search(library, "number 7", k=3)["results"]
    assert client.search(library, "number", mode="keyword")["results"]
    done = ended(client, post(client, "batch-delete", library=library, filter={"n": {"$lt": 50}}))
    assert done["result"]["deleted"] == 50
    done = ended(client, post(client, "index-rebuild", library=library))
    assert done["status"] == "completed", done
    assert done["result"]["chunks"] == 50
    assert {"vector", "keyword"} <= set(done["result"]["views"])
    done = ended(client, post(client, "index-optimize", library=library))
    assert done["result"]["chunks"] == 50
    assert len(client.search(library, "number", k=100)["results"]) == 50
    told = client.all_events(library_id=library, types="index.*")
    by_job = [event["type"] for event in told if "job_id" in event["data"]]
    assert by_job == ["index.rebuilding", "index.rebuilt", "index.optimizing", "index.optimized"]
    done = ended(
        client,
        answer(client.http.post("/v1/jobs", json={"type": "retry_embeddings", "library": library})),
    )
    assert done["result"] == {"tried": 0, "embedded": 0, "pending": 0}


def test_log_is_trimmed_by_a_job(serve: Serve) -> None:
    with Client(serve().url) as client:
        library = client.create_library()["id"]
        client.stream(library, documents(100), response="summary")
        params = {"age_seconds": 1e9, "keep_changes": 10}
        job = client.http.post("/v1/jobs", json={"type": "retention", "params": params})
        done = ended(client, answer(job))
        assert done["status"] == "completed"
        assert done["result"]["trimmed"] > 90
        assert client.http.get("/v1/events", params={"after": "beginning"}).status_code == 200
        assert len(client.documents(library)) == 100


def test_live_query_ends_when_vectors_are_made_anew_and_can_be_opened_again(
    client: Client, library: str
) -> None:
    client.stream(library, documents(20), response="summary")
    path = f"/v1/libraries/{library}/search/live"
    wanted = {"query": "text number 7", "k": 1}
    with Events(client.http, path, wanted, None, comments=False) as live:
        live.until("ready")
        done = ended(client, post(client, "regenerate-embeddings", library=library))
        assert done["status"] == "completed"
        told = live.until("error")
        assert (told.data["code"], told.data["retryable"]) == ("library_regenerated", True)
    with Events(client.http, path, wanted, None, comments=False) as live:
        (hit,) = live.until("snapshot").data["results"]
        assert hit["text"] == "text number 7"


def test_cancelled_import_stops_at_once_and_goes_on_when_it_is_retried(serve: Serve) -> None:
    with Client(serve(ingest__group_lines=50).url) as client:
        library = client.create_library()["id"]
        body = ndjson(documents(20_000))
        with client.events(types="job.progress", library=library) as events:
            job = send(client, library, body, "application/x-ndjson")
            while events.take(1)[0]["data"]["progress"]["current"] < 100:
                pass
            answer(client.http.post(f"/v1/jobs/{job['job_id']}/cancel"))
        stopped = ended(client, job, 10)
        assert stopped["status"] == "cancelled"
        there = client.http.get(f"/v1/libraries/{library}").json()["documents"]
        assert 0 < there < 20_000
        told = [event["type"] for event in client.all_events(library_id=library, types="batch.*")]
        assert told == ["batch.started", "batch.failed"]
        answer(client.http.post(f"/v1/jobs/{job['job_id']}/retry"))
        done = ended(client, job, 120)
        assert done["status"] == "completed"
        assert done["result"] | {"received": 20_000, "created": 20_000} == done["result"]
        assert client.http.get(f"/v1/libraries/{library}").json()["documents"] == 20_000


def test_embeddings_are_retried_and_what_still_waits_is_told(serve: Serve) -> None:
    nobody = {"embed__openai_base_url": "http://127.0.0.1:9/v1", "embed__retries": 0}
    with Client(serve(embed__breaker_failures=1000, **nobody).url) as client:
        made = client.create_library(embedder="openai:any", dimension=8)
        client.stream(made["id"], documents(3), response="summary", wait="durable")
        body = {"type": "retry_embeddings", "library": made["id"]}
        done = ended(client, answer(client.http.post("/v1/jobs", json=body)), 60)
        assert done["status"] == "completed", done
        assert done["result"] == {"tried": 3, "embedded": 0, "pending": 3}
