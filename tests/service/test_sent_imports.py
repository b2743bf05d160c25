"""A file that is sent, and what becomes of it when the request is cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from service.whole import whole
from starlette.requests import Request

from headwater.api.job_types import job_type_routes
from headwater.app import Parts
from headwater.errors import TooManyJobs
from headwater.service.jobs import Submission

pytestmark = pytest.mark.anyio


async def send(parts: Parts, library: str, body: bytes) -> None:
    """The route's work, without sockets around it."""
    router = job_type_routes(parts.log, parts.jobs, parts.uploads, parts.settings.limits)
    (endpoint,) = (
        route.endpoint  # type: ignore[attr-defined]  # each is an APIRoute
        for route in router.routes
        if route.path.endswith("/batch-import")  # type: ignore[attr-defined]
    )
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(messages)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/jobs/batch-import",
        "query_string": f"library={library}".encode(),
        "headers": [(b"content-type", b"application/x-ndjson")],
    }
    given = dict.fromkeys(
        [
            *("format", "delimiter", "encoding", "batch_id", "max_errors", "not_before"),
            *(f"{role}_column" for role in ("text", "id", "title", "vector", "metadata")),
            *("max_attempts", "idempotency_key"),
        ]
    )
    await endpoint(Request(scope, receive), library=library, priority=0, **given)


async def test_a_request_that_is_cut_off_takes_no_file_from_a_job_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("books")
        submit = parts.jobs.submit

        async def cut(submission: Submission, *, id: str | None = None) -> Any:
            await submit(submission, id=id)
            raise asyncio.CancelledError  # the server stops, and the answer is never sent

        monkeypatch.setattr(parts.jobs, "submit", cut)
        with pytest.raises(asyncio.CancelledError):
            await send(parts, library.name, b'{"id":"a","text":"x"}\n')
        (job,) = await parts.jobs.page(after=0, limit=10)
        with anyio.fail_after(30):
            while (await parts.jobs.get(job.id)).status != "completed":
                await parts.log.bell.wait_change()
        assert (await parts.libraries.fresh(library.id)).documents == 1


async def test_a_file_whose_job_is_refused_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("books")

        async def full(submission: Submission, *, id: str | None = None) -> Any:
            assert id is not None
            assert parts.jobs.folder_of(id).is_dir()
            raise TooManyJobs("the queue is full")

        monkeypatch.setattr(parts.jobs, "submit", full)
        with pytest.raises(TooManyJobs):
            await send(parts, library.name, b'{"id":"a","text":"x"}\n')
        assert list((tmp_path / "jobs").iterdir()) == []
