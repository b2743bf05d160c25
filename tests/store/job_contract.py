"""What every store must keep of jobs, as tests: a backend's test module subclasses this."""

from __future__ import annotations

from typing import Any

import pytest
from store.backend import Backend
from store.jobs import ERROR, FAR_US, claim, new, stored, submit, told
from store.reading import data, is_sound, whole_log

from headwater.errors import (
    IdempotencyMismatch,
    JobFinished,
    JobNotFinished,
    JobNotFound,
    LeaseLost,
    TooManyJobs,
)
from headwater.model import Progress
from headwater.store.job_commands import (
    CancelJob,
    Claimed,
    ClaimJobs,
    CompleteJob,
    EnqueueJobs,
    FailJob,
    ForgetJobs,
    ReplayDead,
    RetryJob,
    SaveJob,
    StopJob,
)


@pytest.mark.anyio
class JobContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    async def test_a_job_is_queued_claimed_and_completed(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            (job,) = await submit(opened, new("a", library_id=library.id))
            assert job == await stored(opened, "a")
            assert (job.status, job.attempt, job.params) == ("queued", 0, {"to": 3})
            (held,) = await claim(opened)
            assert held == await stored(opened, "a")
            assert (held.status, held.attempt, held.lease, held.worker) == ("running", 1, 1, "one")
            done = await opened.store.write(CompleteJob("a", 1, Progress(3, 3), {"counted": 3}))
            assert done.status == "completed"
            kept = await stored(opened, "a")
            assert (kept.result, kept.progress, kept.finished_us) == (
                {"counted": 3},
                Progress(3, 3),
                done.finished_us,
            )
            log = [change for change in await whole_log(opened) if change.subject == "a"]
            assert [c.type for c in log] == ["job.queued", "job.started", "job.completed"]
            assert {change.library_id for change in log} == {library.id}
            assert data(log[-1])["result"] == {"counted": 3}
            assert kept.position == log[-1].position
            await is_sound(opened)

    async def test_the_order_is_priority_then_time_then_age(self, backend: Backend) -> None:
        async with backend.open() as opened:
            now_us = opened.clock.us = 1_000_000
            await submit(
                opened,
                new("late", not_before_us=now_us + 50),
                new("plain"),
                new("plain-too"),
                new("urgent", priority=5),
                new("whenever", priority=-5),
                new("urgent-later", priority=5, not_before_us=now_us + 100),
                new("other", type="print", priority=9),
            )
            assert [job.id for job in await claim(opened, 2)] == ["urgent", "plain"]
            opened.clock.us = now_us + 1_000
            order = [job.id for job in await claim(opened, 10)]
            assert order == ["urgent-later", "plain-too", "late", "whenever"]
            assert [job.id for job in await claim(opened, 10, types=("count", "print"))] == [
                "other"
            ]
            assert await claim(opened, types=()) == []

    async def test_few_heavy_jobs_are_claimed_and_others_pass_them(self, backend: Backend) -> None:
        async with backend.open() as opened:
            heavy = [new(f"h{n}", type="rebuild", priority=1) for n in range(3)]
            await submit(opened, *heavy, new("a"), new("b"), new("c"))
            types = ("rebuild", "count")

            async def take(room: int) -> list[str]:
                command = ClaimJobs("one", types, 3, FAR_US, ["rebuild"], room)
                claimed: Claimed = await opened.store.write(command)
                return [job.id for job in claimed.jobs]

            assert await take(1) == ["h0", "a", "b"]
            assert await take(0) == ["c"]
            assert await take(5) == ["h1", "h2"]

    async def test_a_job_waits_for_its_time(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000
            await submit(opened, new("a", not_before_us=5_000), new("b", not_before_us=3_000))
            found = await opened.store.write(ClaimJobs("one", ["count"], 5, FAR_US))
            assert found == Claimed([], 3_000)
            news = await opened.store.read(lambda r: r.job_news("one", ["count"], 2_999))
            assert (news.due, news.next_us) == (False, 3_000)
            news = await opened.store.read(lambda r: r.job_news("one", ["count"], 3_000))
            assert news.due
            opened.clock.us = 3_000
            found = await opened.store.write(ClaimJobs("one", ["count"], 5, FAR_US))
            assert ([job.id for job in found.jobs], found.next_us) == (["b"], 5_000)

    async def test_an_idempotency_key_gives_the_job_there_is(self, backend: Backend) -> None:
        async with backend.open() as opened:
            jobs = (
                new("a", idempotency_key="k"),
                new("b", idempotency_key="k"),
                new("c", idempotency_key="k", params={"to": 4}),
                new("d", idempotency_key="k", type="print"),
            )
            first, second, third, fourth = await opened.store.write(EnqueueJobs(jobs, 10))
            assert (first.created, second.created, second.job) == (True, False, first.job)
            assert isinstance(third, IdempotencyMismatch)
            assert third.fields == {"job_id": "a"}
            assert fourth.created
            assert await opened.store.read(lambda r: r.job_ids(["a", "b", "c", "d"])) == {"a", "d"}

    async def test_no_more_wait_than_may(self, backend: Backend) -> None:
        async with backend.open() as opened:
            found = await opened.store.write(EnqueueJobs([new("a"), new("b"), new("c")], 2))
            assert isinstance(found[2], TooManyJobs)
            await claim(opened)
            (again,) = await opened.store.write(EnqueueJobs([new("c")], 2))
            assert again.created

    async def test_a_waiting_job_is_cancelled_at_once(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            job = await opened.store.write(CancelJob("a"))
            assert job.status == "cancelled"
            assert await claim(opened) == []
            assert (await opened.store.write(CancelJob("a"))).position == job.position
            assert await told(opened, "a") == ["job.queued submitted", "job.cancelled"]
            with pytest.raises(JobNotFound):
                await opened.store.write(CancelJob("x"))
            await is_sound(opened)

    async def test_a_running_job_is_asked_to_stop_once(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            await claim(opened)
            asked = await opened.store.write(CancelJob("a"))
            assert (asked.status, asked.cancel_requested) == ("running", True)
            again = await opened.store.write(CancelJob("a"))
            assert again.position == asked.position
            news = await opened.store.read(lambda r: r.job_news("one", ["count"], 0))
            assert (news.cancelled, news.held) == ({"a"}, {"a": 1})
            stopped = await opened.store.write(StopJob("a", 1, Progress(2, 3)))
            assert (stopped.status, stopped.cancel_requested) == ("cancelled", False)
            assert await told(opened, "a") == [
                "job.queued submitted",
                "job.started",
                "job.progress",
                "job.cancelled",
            ]
            with pytest.raises(LeaseLost):
                await opened.store.write(CompleteJob("a", 1, Progress(), {}))
            await is_sound(opened)

    async def test_a_job_that_ended_before_it_heard_has_ended(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            await claim(opened)
            await opened.store.write(CancelJob("a"))
            await opened.store.write(CompleteJob("a", 1, Progress(), {}))
            with pytest.raises(JobFinished):
                await opened.store.write(CancelJob("a"))

    async def test_a_failed_attempt_is_repeated_until_none_is_left(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000
            await submit(opened, new("a"))
            await claim(opened)
            job = await opened.store.write(FailJob("a", 1, Progress(1), ERROR, 9_000))
            assert (job.status, job.attempt, job.not_before_us) == ("queued", 1, 9_000)
            assert (await stored(opened, "a")).error == ERROR
            assert await claim(opened) == []
            opened.clock.us = 9_000
            (again,) = await claim(opened)
            assert (again.attempt, again.lease) == (2, 2)
            dead = await opened.store.write(FailJob("a", 2, Progress(1), ERROR, 20_000))
            assert (dead.status, dead.dead) == ("failed", True)
            assert await told(opened, "a") == [
                "job.queued submitted",
                "job.started",
                "job.queued retry",
                "job.started",
                "job.failed",
            ]
            found = await opened.store.read(lambda r: r.jobs(after=0, limit=5, dead=True))
            assert [job.id for job in found] == ["a"]
            await is_sound(opened)

    async def test_what_cannot_be_repeated_has_failed_and_is_not_dead(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"))
            await claim(opened)
            job = await opened.store.write(FailJob("a", 1, Progress(), ERROR, None))
            assert (job.status, job.dead, job.error) == ("failed", False, ERROR)

    async def test_trying_again_gives_all_attempts_and_keeps_what_was_saved(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            await submit(opened, new("a"), new("b", max_attempts=1), new("c", max_attempts=1))
            with pytest.raises(JobNotFinished):
                await opened.store.write(RetryJob("a"))
            await claim(opened, 3)
            await opened.store.write(SaveJob("a", 1, Progress(1, 3), {"at": 1}))
            for id in "abc":
                again_us = None if id == "a" else 1
                await opened.store.write(FailJob(id, 1, Progress(), ERROR, again_us))
            job = await opened.store.write(RetryJob("a"))
            assert (job.status, job.attempt, job.error) == ("queued", 0, None)
            (held,) = await claim(opened)
            assert (held.saved, held.attempt, held.lease) == ({"at": 1}, 1, 2)
            assert await opened.store.write(ReplayDead("print", 5)) == 0
            assert await opened.store.write(ReplayDead(None, 1)) == 1
            assert await opened.store.write(ReplayDead("count", 5)) == 1
            assert [job.id for job in await claim(opened, 5)] == ["b", "c"]
            await is_sound(opened)

    async def test_listing_filters_and_pages(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            await submit(
                opened,
                new("a", library_id=library.id),
                new("b", type="print"),
                new("c", schedule_id="s"),
                new("d"),
            )
            await claim(opened)

            async def ids(**wanted: Any) -> str:
                found = await opened.store.read(
                    lambda r: r.jobs(**{"after": 0, "limit": 10} | wanted)
                )
                return "".join(job.id for job in found)

            assert await ids() == "dcba"
            assert await ids(order="oldest") == "abcd"
            assert await ids(limit=2) == "dc"
            (c,) = await opened.store.read(lambda r: r.jobs(after=4, limit=1))
            assert await ids(after=c.row) == "ba"
            assert await ids(order="oldest", after=c.row) == "d"
            assert await ids(statuses=["running"]) == "a"
            assert await ids(statuses=["running", "queued"], types=["count"]) == "dca"
            assert await ids(statuses=[]) == ""
            assert await ids(library_id=library.id) == "a"
            assert await ids(schedule_id="s") == "c"
            assert await ids(dead=False) == ""

    async def test_figures_count_by_type_and_status(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000_000
            await submit(
                opened, new("a"), new("b"), new("c", type="print", not_before_us=9_000_000)
            )
            opened.clock.us = 3_000_000
            await claim(opened)
            opened.clock.us = 3_500_000
            await opened.store.write(CompleteJob("a", 1, Progress(), {}))
            figures = await opened.store.read(lambda r: r.job_figures())
            assert figures.counts == {
                "count": {"completed": 1, "queued": 1},
                "print": {"queued": 1},
            }
            assert (figures.dead, figures.delayed, figures.oldest_us) == (0, 1, 1_000_000)
            assert (figures.waited_ms, figures.ran_ms) == ([2_000], [500])

    async def test_finished_jobs_are_forgotten_by_age(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000
            await submit(opened, *(new(id) for id in "abcd"))
            await claim(opened, 3)
            await opened.store.write(CompleteJob("a", 1, Progress(), {}))
            await opened.store.write(FailJob("b", 1, Progress(), ERROR, None))
            head = await opened.store.read(lambda r: r.head())
            assert await opened.store.write(ForgetJobs(1_000, 1_000, 9)) == []
            assert await opened.store.write(ForgetJobs(2_000, 500, 9)) == ["a"]
            assert await opened.store.write(ForgetJobs(2_000, 2_000, 9)) == ["b"]
            assert await opened.store.read(lambda r: r.head()) == head
            assert await opened.store.read(lambda r: r.job_ids("abcd")) == {"c", "d"}
