"""Several processes at the jobs of one store: each job once, whoever is killed in the middle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from jobs.gate import Gate
from jobs.pool import Pool, pool
from jobs.types import declare
from jobs.workers import WorkerProcess
from store.backend import HandClock

from headwater.clock import SystemClock
from headwater.model import Job
from headwater.store.job_commands import CreateSchedule

pytestmark = pytest.mark.anyio


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder; processes started here know the test's types."""
    monkeypatch.setenv("PYTHONPATH", declare(tmp_path / "packages"))
    return tmp_path / "data"


async def test_eight_workers_in_two_processes_run_5000_jobs_each_once(
    data: Path, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    with WorkerProcess(data, store__durability="normal", jobs__size=4) as there:
        async with pool(data, name="here", size=4) as here:
            await anyio.to_thread.run_sync(there.wait_running)
            ids: list[str] = []
            for _ in range(10):
                ids += await here.submit("nothing", 500, marks=str(marks))
            with anyio.fail_after(120):
                while True:
                    position = here.log.head
                    figures = await here.log.store.read(lambda reader: reader.job_figures())
                    if figures.counts["nothing"].get("completed") == 5_000:
                        break
                    await here.log.bell.wait_past(position)
            runs = Counter(marks.read_text().split())
            assert set(runs) == set(ids)
            assert set(runs.values()) == {1}
            page = await here.log.store.read(
                lambda reader: reader.jobs(after=0, limit=10_000, statuses=["completed"])
            )
            assert len({job.worker for job in page}) > 1


async def test_a_killed_workers_job_is_taken_over_and_completes_once(
    data: Path, gate: Gate
) -> None:
    async with pool(data, name="watch", runs=False) as watch:
        with WorkerProcess(data) as first:
            (id,) = await watch.submit("count", to=6, until=3, gate=str(gate))
            await watch.when(id, lambda job: job.progress.current == 3)
            first.kill()
        assert (await watch.job(id)).status == "running"
        async with pool(data, name="here") as here:
            # Long before its lease would end: the system says that its process has.
            await here.when(id, lambda job: job.worker == "here")
            gate.open()
            job = await here.until(id, "completed")
        # What was saved is not done again: the first three are the first worker's.
        assert [(here.folder / id / f"{n}.done").read_text() for n in range(6)] == list("111222")
        assert (job.result, job.lease, job.attempt) == ({"counted": 6}, 2, 1)


async def test_a_job_that_kills_its_process_ends_in_the_dead_list(data: Path) -> None:
    async with pool(data, name="watch", runs=False) as watch:
        (bad,) = await watch.submit("poison", max_attempts=1)
        with WorkerProcess(data) as worker:
            assert worker.process is not None
            with anyio.fail_after(60):
                await anyio.to_thread.run_sync(worker.process.wait, abandon_on_cancel=True)
        async with pool(data, name="here") as here:
            job: Job = await here.until(bad, "failed")
            await here.ended(await here.submit("nothing"))
        assert (job.dead, job.attempt) == (True, 1)
        assert job.error is not None
        assert job.error["code"] == "worker_lost"


async def test_a_worker_that_stops_gives_its_jobs_back(data: Path) -> None:
    async with pool(data, name="watch", runs=False) as watch:
        with WorkerProcess(data) as worker:
            (id,) = await watch.submit("wait")
            await watch.until(id, "running")
            assert worker.stop() == 0
        job = await watch.job(id)
        assert (job.status, job.attempt) == ("queued", 0)
        assert await watch.log.store.read(lambda reader: reader.workers()) == []


def every(seconds: int, first_us: int, id: str = "s") -> CreateSchedule:
    """A schedule of an interval, of which no firing is let go."""
    return CreateSchedule(
        id=id,
        name=id,
        type="nothing",
        library_id=None,
        params={},
        priority=0,
        max_attempts=3,
        cron=None,
        timezone="UTC",
        every_us=seconds * 1_000_000,
        missed="all",
        paused=False,
        next_us=first_us,
        most=99,
    )


async def fired(watch: Pool, times: int, schedules: Collection[str] = ("s",)) -> list[Job]:
    """The jobs that there are, oldest first, once each schedule has fired so many times."""
    with anyio.fail_after(60):
        while True:
            position = watch.log.head
            jobs = await watch.log.store.read(lambda reader: reader.jobs(after=0, limit=1_000))
            counts = Counter(job.schedule_id for job in jobs)
            if all(counts[id] >= times for id in schedules):
                return sorted(jobs, key=lambda job: job.row)
            await watch.log.bell.wait_past(position)


async def test_a_schedule_fires_once_for_two_pools(data: Path) -> None:
    clock = HandClock()
    now_us = clock.us = 1_000_000_000_000_000
    async with (
        pool(data, name="one", poll=0.01, clock=clock) as one,
        pool(data, name="two", poll=0.01, clock=clock) as two,
    ):
        await one.log.store.write(every(60, now_us + 60_000_000))
        for minute in range(1, 6):
            clock.us = now_us + minute * 60_000_000
            assert len(await fired(two, minute)) == minute
            schedule = await two.log.store.read(lambda reader: reader.schedule("s"))
            assert schedule is not None
            assert (schedule.fired, schedule.next_us) == (
                minute,
                now_us + (minute + 1) * 60_000_000,
            )


async def test_each_firing_happens_once_when_one_of_three_processes_is_killed(data: Path) -> None:
    """All sleep until the same moments, so that each firing is one that three are after."""
    async with pool(data, name="watch", runs=False) as watch:
        with WorkerProcess(data) as one, WorkerProcess(data) as two, WorkerProcess(data) as three:
            for worker in (one, two, three):
                await anyio.to_thread.run_sync(worker.wait_running)
            now_us = SystemClock().now_us()
            # So many that the kill falls into a firing as likely as not.
            first_us = {f"s{n}": now_us + 500_000 + n * 50_000 for n in range(20)}
            for id, us in first_us.items():
                await watch.log.store.write(every(1, us, id))
            await fired(watch, 2, first_us)
            one.kill()
            jobs = await fired(watch, 6, first_us)
            ended = await watch.ended([job.id for job in jobs])
    assert {job.status for job in ended} == {"completed"}
    for id, us in first_us.items():
        keys = [job.idempotency_key for job in jobs if job.schedule_id == id]
        assert keys == [f"{id}@{us + second * 1_000_000}" for second in range(len(keys))]
