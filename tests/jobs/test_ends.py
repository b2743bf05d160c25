"""How a job ends when the store does not take its end: it is not lost, and nobody hangs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from jobs.pool import Pool, pool
from jobs.types import Typed

from headwater.errors import HeadwaterError, Overloaded, StoreFailed
from headwater.jobs import JobContext, Result
from headwater.store.job_commands import (
    ClaimJobs,
    CompleteJob,
    FailJob,
    ForgetJobs,
    ReapJobs,
    RenewLeases,
    SaveJob,
    StopJob,
)

pytestmark = pytest.mark.anyio

ENDS = (CompleteJob, FailJob, StopJob)


class Faulty:
    """The store's writing, of which some commands fail for as long as `error` is set."""

    def __init__(self, opened: Pool, monkeypatch: pytest.MonkeyPatch, *kinds: type[Any]) -> None:
        self.error: Callable[[], HeadwaterError] | None = None
        self.refused: list[Any] = []
        self.hit = anyio.Event()
        write = opened.log.store.write

        async def sometimes(command: Any) -> Any:
            if self.error is not None and isinstance(command, kinds):
                self.refused.append(command)
                self.hit.set()
                raise self.error()
            return await write(command)

        monkeypatch.setattr(opened.log.store, "write", sometimes)

    async def refuses(self, *kinds: type[Any]) -> None:
        """Wait until it has refused one of each."""
        while not {*kinds} <= {type(command) for command in self.refused}:
            self.hit = anyio.Event()
            await self.hit.wait()


def full() -> HeadwaterError:
    return StoreFailed("the database refused (SQLITE_FULL: database or disk is full)")


def at_fault() -> HeadwaterError:
    return StoreFailed("the command could not be carried out", retryable=False)


@pytest.mark.parametrize("error", [full, lambda: Overloaded("10000 requests wait")])
async def test_an_end_is_written_as_soon_as_the_store_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], HeadwaterError]
) -> None:
    async with pool(tmp_path) as opened:
        store = Faulty(opened, monkeypatch, *ENDS)
        store.error = error
        (id,) = await opened.submit("count", to=2)
        with anyio.fail_after(30):
            await store.refuses(CompleteJob)
        assert (await opened.job(id)).status == "running"
        store.error = None
        job = await opened.until(id, "completed")
        assert (job.result, job.attempt) == ({"counted": 2}, 1)


async def test_an_end_that_is_never_taken_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path) as opened:
        store = Faulty(opened, monkeypatch, CompleteJob)
        store.error = at_fault
        (id,) = await opened.submit("count", to=2)
        job = await opened.until(id, "failed")
        assert len(store.refused) == 1
        assert job.error is not None
        assert job.error["code"] == "job_failed"
        assert "could not be carried out" in job.error["detail"]
        assert not job.dead


async def test_a_stop_does_not_wait_for_a_store_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path, name="watch", runs=False) as watch:
        with anyio.fail_after(20):
            async with pool(tmp_path, name="one", stop=0.1) as opened:
                store = Faulty(opened, monkeypatch, *ENDS)
                (waits,) = await opened.submit("wait")
                await opened.until(waits, message="waiting")
                store.error = full
                (ended,) = await opened.submit("nothing")
                await store.refuses(CompleteJob)
        assert {command.id for command in store.refused} == {waits, ended}
        assert (await watch.job(waits)).status == "running"
        async with pool(tmp_path, name="two") as opened:
            job = await opened.until(ended, "completed")
            assert job.worker == "two"
            await opened.until(waits, "running", message="waiting")


async def test_a_job_whose_row_is_gone_ends_quietly(tmp_path: Path) -> None:
    let = anyio.Event()

    async def hold(context: JobContext) -> Result:
        with anyio.CancelScope(shield=True):
            await let.wait()
        return {}

    async with pool(tmp_path, Typed("hold", hold), poll=60, size=1) as opened:
        (id,) = await opened.submit("hold", max_attempts=1)
        await opened.until(id, "running")
        # Taken by others, who ended it and forgot it.
        await opened.log.store.write(ReapJobs({"one"}, 1, 1))
        assert (await opened.job(id)).status == "failed"
        assert await opened.log.store.write(ForgetJobs(0, 1 << 62, 10)) == [id]
        let.set()
        await opened.ended(await opened.submit("nothing"))
        assert opened.runner.running == 0


async def test_a_process_that_is_refused_everything_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path, lease=0.04, reap_every=60) as opened:
        store = Faulty(opened, monkeypatch, ClaimJobs, RenewLeases, SaveJob)
        store.error = lambda: Overloaded("10000 requests wait")
        ids = await opened.submit("nothing", 3)
        with anyio.fail_after(30):
            await store.refuses(ClaimJobs, RenewLeases)
        store.error = None
        assert {job.status for job in await opened.ended(ids)} == {"completed"}


@pytest.mark.parametrize("count", [1 << 63, 1.5, "many"])
async def test_progress_that_is_no_whole_number_is_a_bug_of_the_job(
    tmp_path: Path, count: Any
) -> None:
    async def odd(context: JobContext) -> Result:
        context.progress(count)
        return {}

    async with pool(tmp_path, Typed("odd", odd)) as opened:
        (id,) = await opened.submit("odd", max_attempts=1)
        job = await opened.until(id, "failed")
        assert job.error is not None
        assert job.error["code"] == "job_crashed"


async def test_progress_may_be_counted_by_numpy(tmp_path: Path) -> None:
    async def count(context: JobContext) -> Result:
        counts: Any = np.array([3, 4], np.int64)
        await context.save({}, current=counts[0], total=counts[1])
        return {}

    async with pool(tmp_path, Typed("counts", count)) as opened:
        (id,) = await opened.submit("counts")
        job = await opened.until(id, "completed")
        assert (job.progress.current, job.progress.total) == (3, 4)
