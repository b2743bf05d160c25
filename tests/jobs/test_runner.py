"""Running jobs: in order, once, to their end, whatever they do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import anyio
import pytest
from jobs.gate import Gate
from jobs.pool import Pool, pool
from jobs.types import Typed
from store.reading import data

from headwater.errors import JobFailed
from headwater.jobs import JobContext, Result
from headwater.model import Change
from headwater.store import DataFolder
from headwater.store.job_commands import ChangeWorkers, ClaimJobs, ReapJobs

pytestmark = pytest.mark.anyio


async def events(opened: Pool, id: str) -> list[Change]:
    page = await opened.log.store.read(lambda reader: reader.log(0, 100_000))
    return [change for change in page.changes if change.subject == id]


async def test_a_job_runs_and_its_result_is_kept(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened:
        (id,) = await opened.submit("count", to=3)
        job = await opened.until(id, "completed")
        assert (job.result, job.attempt, job.worker) == ({"counted": 3}, 1, "one")
        assert (job.progress.current, job.progress.total) == (3, 3)
        assert sorted(path.name for path in (opened.folder / id).iterdir()) == [
            "0.done",
            "1.done",
            "2.done",
        ]


async def test_no_more_run_at_once_than_there_are_places(tmp_path: Path) -> None:
    now = most = 0
    let = anyio.Event()

    async def hold(context: JobContext) -> Result:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            let.set()
        await let.wait()
        now -= 1
        return {}

    async with pool(tmp_path, Typed("hold", hold), size=3) as opened:
        await opened.ended(await opened.submit("hold", 30))
        assert most == 3


async def test_priorities_are_honoured_as_places_come_free(tmp_path: Path) -> None:
    order: list[int] = []
    let = anyio.Event()

    async def note(context: JobContext) -> Result:
        await let.wait()
        order.append(context.job.priority)
        return {}

    async with pool(tmp_path, Typed("note", note), size=1) as opened:
        first = await opened.submit("note", priority=100)
        await opened.until(first[0], "running")
        ids = [(await opened.submit("note", priority=p))[0] for p in (0, -3, 7, 5, 0, 7)]
        let.set()
        await opened.ended(ids)
        assert order == [100, 7, 7, 5, 0, 0, -3]


async def test_a_job_is_not_begun_before_its_time(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened:
        not_before_us = opened.clock.now_us() + 150_000
        (id,) = await opened.submit("nothing", not_before_us=not_before_us)
        job = await opened.until(id, "completed")
        assert job.started_us is not None
        assert job.started_us >= not_before_us


async def test_few_heavy_jobs_run_at_once_and_others_pass_them(tmp_path: Path) -> None:
    running = most = 0
    let = anyio.Event()

    async def lift(context: JobContext) -> Result:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await let.wait()
        running -= 1
        return {}

    async with pool(tmp_path, Typed("lift", lift, heavy=True), size=4) as opened:
        heavy = await opened.submit("lift", 3, priority=9)
        await opened.ended(await opened.submit("nothing", 10))
        let.set()
        await opened.ended(heavy)
        assert most == 1


@pytest.mark.parametrize("type", ["wait", "block"])
async def test_a_running_job_is_cancelled(tmp_path: Path, type: str) -> None:
    async with pool(tmp_path) as opened:
        (id,) = await opened.submit(type)
        await opened.until(id, message="waiting" if type == "wait" else "working")
        assert (await opened.cancel(id)).cancel_requested
        job = await opened.until(id, "cancelled")
        assert job.finished_us is not None
        kinds = [change.type for change in await events(opened, id)]
        assert (kinds[-1], kinds.count("job.cancelled")) == ("job.cancelled", 1)


async def test_another_process_cancels_a_running_job(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened, pool(tmp_path, name="two", runs=False) as other:
        (id,) = await opened.submit("wait")
        await opened.until(id, "running")
        await other.cancel(id)
        await opened.until(id, "cancelled")


async def test_a_thread_that_does_not_listen_is_left_to_itself(tmp_path: Path, gate: Gate) -> None:
    async with pool(tmp_path, stop=0.1, size=1) as opened:
        (id,) = await opened.submit("stubborn", gate=str(gate))
        await opened.until(id, message="working")
        await opened.cancel(id)
        await opened.until(id, "cancelled")
        await opened.ended(await opened.submit("nothing"))
        gate.open()


async def test_a_failed_attempt_is_tried_again(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened:
        (id,) = await opened.submit("fail", until=3)
        job = await opened.until(id, "completed")
        assert (job.attempt, job.result, job.error) == (3, {"attempt": 3}, None)
        told = [data(change) for change in await events(opened, id)]
        again = [change for change in told if change.get("reason") == "retry"]
        assert [change["error"]["code"] for change in again] == ["job_failed"] * 2
        assert again[0]["error"]["shelf"] == 3


@pytest.mark.parametrize("bug", [True, False])
async def test_a_job_without_attempts_left_is_dead(tmp_path: Path, bug: bool) -> None:
    async with pool(tmp_path) as opened:
        (id,) = await opened.submit("fail", bug=bug, max_attempts=2)
        job = await opened.until(id, "failed")
        assert (job.dead, job.attempt) == (True, 2)
        assert job.error is not None
        assert job.error["code"] == ("job_crashed" if bug else "job_failed")


async def test_what_trying_again_does_not_help_is_not_tried_again(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened:
        (id,) = await opened.submit("fail", retryable=False)
        job = await opened.until(id, "failed")
        assert (job.dead, job.attempt) == (False, 1)


async def test_errors_of_a_handlers_own_tasks_are_its_errors(tmp_path: Path) -> None:
    async def together(context: JobContext) -> Result:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise KeyError("lost")
        raise AssertionError("the group raises")

    async with pool(tmp_path, Typed("together", together)) as opened:
        (id,) = await opened.submit("together", max_attempts=1)
        job = await opened.until(id, "failed")
        assert job.error is not None
        assert job.error["detail"] == "KeyError: 'lost'"


async def test_a_result_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    async def large(context: JobContext) -> Result:
        return {"text": "x" * 2_000}

    async with pool(tmp_path, Typed("large", large), result_bytes=1_024) as opened:
        (id,) = await opened.submit("large")
        job = await opened.until(id, "failed")
        assert not job.dead


async def test_a_process_that_stops_gives_its_jobs_back(tmp_path: Path, gate: Gate) -> None:
    async with pool(tmp_path, name="watch", runs=False) as watch:
        async with pool(tmp_path, name="one") as opened:
            (waits,) = await opened.submit("wait")
            (counts,) = await opened.submit("count", to=5, until=3, gate=str(gate))
            await opened.until(waits, message="waiting")
            while (await opened.job(counts)).progress.current < 3:
                await opened.log.bell.wait_change()
        for id in (waits, counts):
            job = await watch.job(id)
            assert (job.status, job.attempt, job.worker) == ("queued", 0, None)
        assert await watch.log.store.read(lambda reader: reader.workers()) == []
        gate.open()
        async with pool(tmp_path, name="two") as opened:
            job = await opened.until(counts, "completed")
            assert (job.attempt, job.lease) == (1, 2)
            leases = [(opened.folder / counts / f"{n}.done").read_text() for n in range(5)]
            assert leases == ["1", "1", "1", "2", "2"]


async def test_a_job_that_is_somebody_elses_by_now_is_let_go(tmp_path: Path) -> None:
    left = anyio.Event()

    async def hold(context: JobContext) -> Result:
        if context.job.lease > 1:
            return {"lease": context.job.lease}
        try:
            await anyio.sleep_forever()
        finally:
            left.set()
        return {}

    async with pool(tmp_path, Typed("hold", hold), poll=0.05) as opened:
        (id,) = await opened.submit("hold")
        await opened.until(id, "running")
        await opened.log.store.write(ReapJobs({"one"}, 1, 1))
        job = await opened.until(id, "completed")
        assert job.result == {"lease": 2}
        with anyio.fail_after(10):
            await left.wait()


async def test_progress_is_thinned_and_the_last_is_kept(tmp_path: Path) -> None:
    async with pool(tmp_path, progress_every=0.05) as opened:
        (id,) = await opened.submit("chatter")
        job = await opened.until(id, "completed")
        assert (job.progress.current, job.progress.total) == (20_000, 20_000)
        told = [c for c in await events(opened, id) if c.type == "job.progress"]
        assert job.finished_us is not None
        assert job.started_us is not None
        assert len(told) <= 2 + (job.finished_us - job.started_us) / 50_000


async def test_the_pool_is_changed_while_it_runs(tmp_path: Path) -> None:
    async with pool(tmp_path, size=0) as opened:
        change = opened.log.store.write

        (id,) = await opened.submit("nothing")
        await change(ChangeWorkers(None, size=2, types=["count"]))
        await opened.ended(await opened.submit("count", to=1))
        assert (await opened.job(id)).status == "queued"
        await change(ChangeWorkers(None, types=["*"]))
        await opened.until(id, "completed")
        await change(ChangeWorkers("one", mode="pause"))
        (paused,) = await opened.submit("nothing")
        await change(ChangeWorkers("one", mode="run"))
        await opened.until(paused, "completed")


async def test_a_paused_pool_lets_its_jobs_go_on_and_a_drained_one_gives_them_back(
    tmp_path: Path, gate: Gate
) -> None:
    async with pool(tmp_path) as opened:
        (first,) = await opened.submit("count", to=2, until=1, gate=str(gate))
        (second,) = await opened.submit("wait")
        await opened.until(first, "running")
        await opened.until(second, "running")
        await opened.log.store.write(ChangeWorkers("one", mode="pause"))
        gate.open()
        await opened.until(first, "completed")
        assert (await opened.job(second)).status == "running"
        await opened.log.store.write(ChangeWorkers("one", mode="drain"))
        job = await opened.until(second, "queued")
        assert job.attempt == 0
        (worker,) = await opened.log.store.read(lambda reader: reader.workers())
        assert (worker.mode, worker.running) == ("drain", 0)


async def test_a_job_of_another_processes_commit_is_begun(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened, pool(tmp_path, name="two", runs=False) as other:
        (id,) = await other.submit("nothing")
        await opened.until(id, "completed")


async def test_a_job_claimed_by_an_answer_that_never_came_is_given_back(tmp_path: Path) -> None:
    async with pool(tmp_path, name="one", size=0, poll=0.05) as opened:
        (id,) = await opened.submit("nothing")
        claim = ClaimJobs("one", ["nothing"], 1, opened.runner.until_us())
        await opened.log.store.write(claim)
        job = await opened.until(id, "queued")
        assert job.attempt == 0


async def test_a_process_without_files_to_spare_goes_on_looking_for_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, refused = DataFolder.alive, 0

    def scarce(folder: DataFolder) -> set[str]:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return alive(folder)

    monkeypatch.setattr(DataFolder, "alive", scarce)
    async with pool(tmp_path, size=0) as opened:
        (id,) = await opened.submit("nothing")
        await opened.log.store.write(ClaimJobs("ended", ["nothing"], 1, opened.runner.until_us()))
        await opened.until(id, "queued")
        assert refused == 3


@pytest.mark.parametrize(
    "given",
    [{"made": object()}, {"made": "\ud800"}, None, [1], JobFailed("it cannot be", at=object())],
    ids=["object", "surrogate", "nothing", "list", "error"],
)
async def test_what_is_no_json_fails_the_job_and_nothing_else(
    tmp_path: Path, given: object
) -> None:
    async def odd(context: JobContext) -> Result:
        if isinstance(given, JobFailed):
            raise given
        return cast(Result, given)

    async with pool(tmp_path, Typed("odd", odd)) as opened:
        (id,) = await opened.submit("odd", max_attempts=1)
        job = await opened.until(id, "failed")
        assert job.error is not None
        assert job.error["code"] == "job_failed"
        await opened.ended(await opened.submit("nothing"))


async def test_names_that_are_no_utf8_are_told_as_far_as_they_go(tmp_path: Path) -> None:
    async def odd(context: JobContext) -> Result:
        context.progress(1, message="reading a\udcff.csv")
        raise ValueError("a\udcff.csv is odd")

    async with pool(tmp_path, Typed("odd", odd)) as opened:
        (id,) = await opened.submit("odd", max_attempts=1)
        job = await opened.until(id, "failed")
        assert job.progress.message == "reading a?.csv"
        assert job.error is not None
        assert job.error["detail"] == "ValueError: a?.csv is odd"
