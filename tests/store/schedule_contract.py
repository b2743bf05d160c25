"""What every store must keep of schedules and workers, as tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from store.backend import Backend, Opened
from store.jobs import FAR_US, new
from store.reading import data, is_sound, whole_log

from headwater.errors import ScheduleExists, ScheduleNotFound, TooManyJobs, WorkerNotFound
from headwater.model import Schedule
from headwater.store.base import Reader
from headwater.store.job_commands import (
    ChangeSchedule,
    ChangeWorkers,
    CreateSchedule,
    DeleteSchedule,
    EnqueueJobs,
    FireSchedule,
    ReapJobs,
    RegisterWorker,
    RemoveWorker,
    RenewLeases,
)
from headwater.store.library_commands import DeleteLibrary


def create(name: str = "nightly", **fields: Any) -> CreateSchedule:
    given: dict[str, Any] = {
        "id": f"{name}-id",
        "name": name,
        "type": "count",
        "library_id": None,
        "params": {"to": 3},
        "priority": 0,
        "max_attempts": 1,
        "cron": "0 3 * * *",
        "timezone": "UTC",
        "every_us": None,
        "missed": "once",
        "paused": False,
        "next_us": 5_000,
        "most": 2,
    }
    return CreateSchedule(**given | fields)


def register(process: str, role: Any = "server", **fields: Any) -> RegisterWorker:
    given: dict[str, Any] = {"pid": 1, "size": 4, "types": ["*"], "until_us": FAR_US}
    return RegisterWorker(process, role, **given | fields)


def read_schedule(ref: str) -> Callable[[Reader], Schedule | None]:
    return lambda reader: reader.schedule(ref)


async def types_told(opened: Opened) -> list[str]:
    return [change.type for change in await whole_log(opened)]


@pytest.mark.anyio
class ScheduleContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    async def test_a_schedule_is_made_found_and_deleted(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made: Schedule = await opened.store.write(create())
            for ref in ("nightly", "nightly-id"):
                assert await opened.store.read(read_schedule(ref)) == made
            assert await opened.store.read(lambda r: r.schedules(after=0, limit=5)) == [made]
            assert await opened.store.read(lambda r: r.schedules(after=made.row, limit=5)) == []
            with pytest.raises(ScheduleExists):
                await opened.store.write(create(id="other"))
            await opened.store.write(create("weekly"))
            with pytest.raises(TooManyJobs):
                await opened.store.write(create("yearly"))
            await opened.store.write(DeleteSchedule("nightly"))
            with pytest.raises(ScheduleNotFound):
                await opened.store.write(DeleteSchedule("nightly"))
            assert await types_told(opened) == [
                "schedule.created",
                "schedule.created",
                "schedule.deleted",
            ]
            await is_sound(opened)

    async def test_one_of_several_fires(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made: Schedule = await opened.store.write(create())
            assert await opened.store.read(lambda r: r.schedules_due(4_999, 9)) == ([], 5_000)
            assert await opened.store.read(lambda r: r.schedules_due(5_000, 9)) == ([made], None)
            jobs = [new("a", schedule_id=made.id)]
            fired = await opened.store.write(FireSchedule(made.id, 5_000, 9_000, jobs, 10))
            assert [job.id for job in fired] == ["a"]
            late = FireSchedule(made.id, 5_000, 9_000, [new("b", schedule_id=made.id)], 10)
            assert await opened.store.write(late) is None
            assert await opened.store.write(FireSchedule("x", 5_000, 9_000, [], 10)) is None
            kept = await opened.store.read(lambda r: r.schedule(made.id))
            assert kept is not None
            assert (kept.next_us, kept.fired, kept.last_job_id) == (9_000, 1, "a")
            change = (await whole_log(opened))[-1]
            assert (change.type, data(change)["reason"]) == ("job.queued", "schedule")
            assert data(change)["schedule_id"] == made.id

    async def test_due_schedules_are_read_page_by_page(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made = [await opened.store.write(create(name, most=9)) for name in ("a", "b", "c")]
            first, _ = await opened.store.read(lambda r: r.schedules_due(5_000, 2))
            assert first == made[:2]
            after = (first[-1].next_us, first[-1].row)
            rest = await opened.store.read(lambda r: r.schedules_due(5_000, 2, after=after))
            assert rest == (made[2:], None)

    async def test_a_job_that_is_there_already_is_not_queued_again(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made: Schedule = await opened.store.write(create())
            taken = new("mine", idempotency_key="nightly@5")
            await opened.store.write(EnqueueJobs([taken], 10))
            jobs = [
                new("a", schedule_id=made.id, idempotency_key="nightly@5"),
                new("b", schedule_id=made.id, idempotency_key="nightly@6"),
            ]
            fired = await opened.store.write(FireSchedule(made.id, 5_000, 9_000, jobs, 10))
            assert [job.id for job in fired] == ["b"]
            kept = await opened.store.read(lambda r: r.schedule(made.id))
            assert kept is not None
            assert (kept.next_us, kept.fired) == (9_000, 1)

    async def test_schedules_go_with_their_library(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            await opened.store.write(create("kept"))
            await opened.store.write(create("gone", library_id=library.id))
            await opened.store.write(DeleteLibrary(library.number))
            left = await opened.store.read(lambda r: r.schedules(after=0, limit=5))
            assert [schedule.name for schedule in left] == ["kept"]
            assert (await types_told(opened))[-2:] == ["schedule.deleted", "library.deleted"]

    async def test_a_firing_without_jobs_only_goes_on(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made: Schedule = await opened.store.write(create())
            assert await opened.store.write(FireSchedule(made.id, 5_000, 9_000, [], 10)) == []
            kept = await opened.store.read(lambda r: r.schedule(made.id))
            assert kept is not None
            assert (kept.next_us, kept.last_us, kept.fired) == (9_000, None, 0)

    async def test_a_full_queue_leaves_the_schedule_waiting(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made: Schedule = await opened.store.write(create())
            with pytest.raises(TooManyJobs):
                await opened.store.write(FireSchedule(made.id, 5_000, 9_000, [new("a")], 0))
            assert await opened.store.read(lambda r: r.schedule(made.id)) == made

    async def test_a_paused_schedule_fires_by_hand_only(self, backend: Backend) -> None:
        async with backend.open() as opened:
            made: Schedule = await opened.store.write(create())
            paused = await opened.store.write(ChangeSchedule(made.id, True, made.next_us))
            assert paused.paused
            assert await opened.store.write(ChangeSchedule(made.id, True, 1)) == paused
            assert await opened.store.read(lambda r: r.schedules_due(9_000, 9)) == ([], None)
            due = FireSchedule(made.id, 5_000, 9_000, [new("a")], 10)
            assert await opened.store.write(due) is None
            by_hand = FireSchedule(made.id, None, 0, [new("b")], 10)
            assert [job.id for job in await opened.store.write(by_hand)] == ["b"]
            kept = await opened.store.read(lambda r: r.schedule(made.id))
            assert kept is not None
            assert (kept.next_us, kept.fired) == (5_000, 1)
            resumed = await opened.store.write(ChangeSchedule(made.id, False, 7_000))
            assert (resumed.paused, resumed.next_us) == (False, 7_000)
            with pytest.raises(ScheduleNotFound):
                await opened.store.write(ChangeSchedule("x", True, 0))
            with pytest.raises(ScheduleNotFound):
                await opened.store.write(FireSchedule("x", None, 0, [], 1))

    async def test_what_is_set_for_all_holds_for_servers_to_come(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await opened.store.write(register("s1"))
            await opened.store.write(register("w1", "worker", size=2, types=["print"]))
            changed = await opened.store.write(ChangeWorkers(None, 8, ["count"], "pause"))
            assert [(w.process, w.size, w.types, w.mode) for w in changed] == [
                ("s1", 8, ["count"], "pause"),
                ("w1", 2, ["print"], "pause"),
            ]
            later = await opened.store.write(register("s2"))
            assert (later.size, later.types, later.mode) == (8, ["count"], "pause")
            await opened.store.write(ChangeWorkers(None, None, None, "run"))
            assert [
                (w.process, w.size, w.types, w.mode)
                for w in await opened.store.read(lambda r: r.workers())
            ] == [
                ("s1", 4, ["*"], "run"),
                ("w1", 2, ["print"], "run"),
                ("s2", 4, ["*"], "run"),
            ]
            assert (await opened.store.write(register("s3"))).size == 4
            assert set(await types_told(opened)) == {"worker.updated"}

    async def test_one_worker_is_changed_alone(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await opened.store.write(register("s1"))
            await opened.store.write(register("w1", "worker"))
            (changed,) = await opened.store.write(ChangeWorkers("w1", size=1, mode="drain"))
            assert (changed.size, changed.mode) == (1, "drain")
            (same,) = await opened.store.write(ChangeWorkers("w1", size=1))
            assert same == changed
            assert await types_told(opened) == ["worker.updated"]
            (reset,) = await opened.store.write(ChangeWorkers("w1", size=None))
            assert reset.size == 4
            with pytest.raises(WorkerNotFound):
                await opened.store.write(ChangeWorkers("x", size=1))

    async def test_workers_that_are_gone_are_not_shown(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 1_000
            for process in ("dead", "silent", "well", "stopped"):
                await opened.store.write(register(process, until_us=2_000))
            opened.clock.us = 3_000
            await opened.store.write(RenewLeases("well", 4_000))
            await opened.store.write(RemoveWorker("stopped"))
            await opened.store.write(ReapJobs({"dead"}, 1, 1))
            workers = await opened.store.read(lambda r: r.workers())
            assert [worker.process for worker in workers] == ["well"]
