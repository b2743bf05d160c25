"""What every store must keep of running jobs: who holds one, what goes with it, who is lost."""

from __future__ import annotations

from typing import Any

import pytest
from store.backend import Backend
from store.jobs import ERROR, FAR_US, claim, new, stored, submit, told
from store.reading import data, is_sound, whole_log

from headwater.errors import (
    LeaseLost,
    LibraryExists,
)
from headwater.model import Progress
from headwater.store.base import Together
from headwater.store.batch_commands import BeginBatch, EndBatch, job_owner
from headwater.store.job_commands import (
    CancelJob,
    CompleteJob,
    FailJob,
    HoldLease,
    ReapJobs,
    RegisterWorker,
    RenewLeases,
    SaveJob,
    StopJob,
)
from headwater.store.library_commands import UpdateLibrary


@pytest.mark.anyio
class JobLeaseContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    async def test_batch_of_a_job_lives_as_long_as_its_job(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await submit(opened, new("a"), new("b"))
            one, two = await claim(opened, 2)
            for job in (one, two):
                begin = BeginBatch(library.number, job.id, job_owner(job.id), once=True)
                first = await store.write(begin)
                assert await store.write(begin) == first, "it is begun once"
            assert await store.read(lambda reader: reader.batch_processes()) == set()
            await store.write(EndBatch(one.id, {"received": 1}))
            await store.write(CompleteJob(one.id, one.lease, Progress(), {}))
            await store.write(FailJob(two.id, two.lease, Progress(), ERROR, None))
            batches = [
                (change.type, change.subject)
                for change in await whole_log(opened)
                if change.type.startswith("batch.")
            ]
            assert batches == [
                ("batch.started", "a"),
                ("batch.started", "b"),
                ("batch.completed", "a"),
                ("batch.failed", "b"),
            ]
            assert (await stored(opened, "b")).status == "failed"
            await is_sound(opened)

    async def test_last_of_commands_that_go_together_is_made_of_the_others(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await submit(opened, new("a"))
            (job,) = await claim(opened)
            rename = UpdateLibrary(library.number, name="else")

            def save(results: list[Any]) -> SaveJob:
                return SaveJob(job.id, job.lease, Progress(), {"version": results[1].version})

            await store.write(Together([HoldLease(job.id, job.lease), rename], then=save))
            assert (await stored(opened, "a")).saved == {"version": 2}
            stale = HoldLease(job.id, job.lease - 1)
            with pytest.raises(LeaseLost):
                await store.write(
                    Together([UpdateLibrary(library.number, name="third"), stale], then=save)
                )
            assert (await opened.store.read(lambda r: r.library("third"))) is None

    async def test_a_stale_lease_changes_nothing(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            await submit(opened, new("a"))
            await claim(opened)
            await opened.store.write(ReapJobs({"one"}, 1, 1))
            (held,) = await claim(opened, process="two")
            assert (held.lease, held.attempt) == (2, 2)
            position = held.position
            stale = (
                HoldLease("a", 1),
                SaveJob("a", 1, Progress(5), {"at": 5}),
                CompleteJob("a", 1, Progress(), {}),
                FailJob("a", 1, Progress(), ERROR, 1),
                StopJob("a", 1, Progress()),
                Together([UpdateLibrary(library.number, name="mine"), HoldLease("a", 1)]),
            )
            for command in stale:
                with pytest.raises(LeaseLost):
                    await opened.store.write(command)
            assert (await stored(opened, "a")).position == position
            assert await opened.store.read(lambda r: r.library("mine")) is None
            await is_sound(opened)

    async def test_together_is_all_or_nothing(self, backend: Backend) -> None:
        async with backend.open() as opened:
            one, two = await opened.library("one"), await opened.library("two")
            await submit(opened, new("a"))
            await claim(opened)
            save = SaveJob("a", 1, Progress(), {"at": 1}, tell=False)
            with pytest.raises(LibraryExists):
                await opened.store.write(Together([save, UpdateLibrary(two.number, name=one.name)]))
            assert (await stored(opened, "a")).saved is None
            nothing, renamed = await opened.store.write(
                Together([save, UpdateLibrary(two.number, name="three")])
            )
            assert (nothing, renamed.name) == (None, "three")
            assert (await stored(opened, "a")).saved == {"at": 1}

    async def test_jobs_of_the_dead_wait_again(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000
            await submit(opened, new("a"), new("b"), new("c"))
            await claim(opened, 1, "dead")
            await claim(opened, 1, "silent", until_us=2_000)
            await claim(opened, 1, "well", until_us=2_000)
            await opened.store.write(RenewLeases("well", 4_000))
            opened.clock.us = 3_000
            holders = await opened.store.read(lambda r: r.job_holders())
            assert holders == {"dead": FAR_US, "silent": 2_000, "well": 4_000}
            assert await opened.store.write(ReapJobs({"dead"}, 100, 1_000)) == ["a", "b"]
            assert await told(opened, "a") == [
                "job.queued submitted",
                "job.started",
                "job.queued lost",
            ]
            assert (await stored(opened, "c")).status == "running"
            # The first loss is made good at once; the next waits, and then there is none left.
            assert [job.attempt for job in await claim(opened, 2, "dead")] == [2, 2]
            assert await opened.store.write(ReapJobs({"dead"}, 100, 1_000)) == ["a", "b"]
            lost = await stored(opened, "a")
            assert (lost.status, lost.dead) == ("failed", True)
            assert lost.error is not None
            assert lost.error["code"] == "worker_lost"
            await is_sound(opened)

    async def test_losses_wait_longer_each_time(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000
            await submit(opened, new("a", max_attempts=9))
            waits = []
            for _ in range(5):
                await claim(opened, 1, "dead")
                await opened.store.write(ReapJobs({"dead"}, 100, 300))
                waits.append((await stored(opened, "a")).not_before_us - opened.clock.us)
                opened.clock.us += 1_000
            assert waits == [0, 100, 200, 300, 300]

    async def test_a_loss_does_not_count_when_the_job_had_got_further(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            for step in range(5):
                (held,) = await claim(opened)
                assert held.attempt == 1
                await opened.store.write(SaveJob("a", held.lease, Progress(step), {"at": step}))
                await opened.store.write(ReapJobs({"one"}, 1, 1))
            for attempt in (1, 2):
                (held,) = await claim(opened)
                assert held.attempt == attempt
                await opened.store.write(SaveJob("a", held.lease, Progress(step), {"at": step}))
                await opened.store.write(ReapJobs({"one"}, 1, 1))
            assert (await stored(opened, "a")).dead

    async def test_a_cancelled_job_of_the_dead_is_cancelled(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            await claim(opened)
            await opened.store.write(CancelJob("a"))
            await opened.store.write(ReapJobs({"one"}, 1, 1))
            assert (await stored(opened, "a")).status == "cancelled"

    async def test_a_job_given_back_has_not_used_an_attempt(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            await claim(opened)
            await opened.store.write(SaveJob("a", 1, Progress(1, 3, "one of three"), {"at": 1}))
            job = await opened.store.write(StopJob("a", 1, Progress(2, 3)))
            assert (job.status, job.attempt, job.worker) == ("queued", 0, None)
            (held,) = await claim(opened, process="two")
            assert (held.attempt, held.lease, held.saved) == (1, 2, {"at": 1})
            assert (await told(opened, "a"))[-2:] == ["job.queued returned", "job.started"]

    async def test_saving_is_told_only_when_it_is_to_be(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            (held,) = await claim(opened)
            quiet = SaveJob("a", 1, Progress(1, 9), {"at": 1}, tell=False)
            assert await opened.store.write(quiet) is None
            assert (await stored(opened, "a")).position == held.position
            told_at = await opened.store.write(SaveJob("a", 1, Progress(2, 9, "on", 4.0)))
            kept = await stored(opened, "a")
            assert (kept.position, kept.saved) == (told_at, {"at": 1})
            assert kept.progress == Progress(2, 9, "on", 4.0)
            assert data((await whole_log(opened))[-1])["progress"] == {
                "current": 2,
                "total": 9,
                "percentage": 22.22,
                "message": "on",
                "rate": 4.0,
                "eta_seconds": 1.8,
            }

    async def test_news_are_of_ones_own_jobs(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"), new("b"), new("c", type="print"))
            await claim(opened, 1, "one")
            await claim(opened, 1, "two")
            worker = RegisterWorker("one", "worker", 7, 2, ["*"], FAR_US)
            registered = await opened.store.write(worker)
            news = await opened.store.read(lambda r: r.job_news("one", ["count"], 0))
            assert (news.held, news.cancelled, news.due) == ({"a": 1}, set(), False)
            assert news.worker is not None
            assert (news.worker.size, news.worker.running) == (2, 1)
            assert registered.process == "one"
            news = await opened.store.read(lambda r: r.job_news("three", ["print"], 0))
            assert (news.worker, news.held, news.due) == (None, {}, True)
