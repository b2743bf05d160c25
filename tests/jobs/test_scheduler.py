"""Firing schedules: each on its own, whatever becomes of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from jobs.pool import Pool, pool
from store.backend import HandClock

from headwater.errors import StoreFailed
from headwater.jobs import scheduler
from headwater.jobs.scheduler import Scheduler
from headwater.store.job_commands import CreateSchedule, FireSchedule

pytestmark = pytest.mark.anyio

NOW_US = 1_000_000_000_000_000
MINUTE_US = 60_000_000


def schedule(name: str, **fields: Any) -> CreateSchedule:
    """Due now, and again in a minute."""
    given: dict[str, Any] = {
        "id": f"{name}-id",
        "name": name,
        "type": "nothing",
        "library_id": None,
        "params": {},
        "priority": 0,
        "max_attempts": 1,
        "cron": None,
        "timezone": "UTC",
        "every_us": MINUTE_US,
        "missed": "once",
        "paused": False,
        "next_us": NOW_US,
        "most": 1_000,
    }
    return CreateSchedule(**given | fields)


def clock_of(pooled: Pool) -> HandClock:
    pooled.clock.us = NOW_US
    return pooled.clock


async def fired(opened: Pool) -> set[str | None]:
    """The schedules that have submitted a job."""
    jobs = await opened.log.store.read(lambda reader: reader.jobs(after=0, limit=1_000))
    return {job.schedule_id for job in jobs}


async def test_schedules_that_fail_for_good_do_not_starve_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_AT_ONCE", 3)
    async with pool(tmp_path, runs=False) as opened:
        clock = clock_of(opened)
        for n in range(7):  # their zone was there when they were made
            await opened.log.store.write(schedule(f"broken-{n}", timezone="Gone/Away"))
        for n in range(5):
            await opened.log.store.write(schedule(f"good-{n}"))
        firing = Scheduler(opened.log, clock, opened.settings)
        with anyio.fail_after(10):
            assert await firing.fire_due() == NOW_US + MINUTE_US
        assert await fired(opened) == {f"good-{n}-id" for n in range(5)}
        clock.us = NOW_US + MINUTE_US
        await firing.fire_due()
        kept = await opened.log.store.read(lambda reader: reader.schedule("good-4"))
        assert kept is not None
        assert kept.fired == 2


async def test_a_schedule_that_failed_is_tried_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, tried = 0.0, 0
    fire = Scheduler._fire

    async def counted(self: Scheduler, *args: Any) -> None:
        nonlocal tried
        tried += 1
        await fire(self, *args)

    monkeypatch.setattr(Scheduler, "_fire", counted)
    async with pool(tmp_path, runs=False) as opened:
        clock = clock_of(opened)
        monkeypatch.setattr(clock, "monotonic", lambda: now_s)
        await opened.log.store.write(schedule("broken", timezone="Gone/Away"))
        firing = Scheduler(opened.log, clock, opened.settings)
        times = []
        for second in range(300):
            now_s, before = float(second), tried
            await firing.fire_due()
            if tried > before:
                times.append(second)
        assert times == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


async def test_a_schedule_fires_when_the_queue_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    async with pool(tmp_path, runs=False, max_queued=1) as opened:
        clock = clock_of(opened)
        monkeypatch.setattr(clock, "monotonic", lambda: now_s)
        (id,) = await opened.submit("nothing")
        await opened.log.store.write(schedule("late"))
        firing = Scheduler(opened.log, clock, opened.settings)
        await firing.fire_due()
        assert await fired(opened) == {None}
        await opened.cancel(id)
        await firing.fire_due()
        assert await fired(opened) == {None}, "it was put aside for a second"
        now_s = 1.0
        await firing.fire_due()
        assert await fired(opened) == {None, "late-id"}


async def test_one_firing_that_the_store_cannot_take_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path, runs=False) as opened:
        clock = clock_of(opened)
        for name in ("bad", "good"):
            await opened.log.store.write(schedule(name))
        write = opened.log.store.write

        async def refusing(command: Any) -> Any:
            if isinstance(command, FireSchedule) and command.id == "bad-id":
                raise StoreFailed("it cannot be carried out", retryable=False)
            return await write(command)

        monkeypatch.setattr(opened.log.store, "write", refusing)
        await Scheduler(opened.log, clock, opened.settings).fire_due()
        assert await fired(opened) == {"good-id"}


async def test_a_store_that_fails_is_not_blamed_on_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool(tmp_path, runs=False) as opened:
        clock = clock_of(opened)
        await opened.log.store.write(schedule("good"))
        firing = Scheduler(opened.log, clock, opened.settings)
        with monkeypatch.context() as patch:

            async def refusing(command: Any) -> Any:
                raise StoreFailed("the disk is full")

            patch.setattr(opened.log.store, "write", refusing)
            with pytest.raises(StoreFailed):
                await firing.fire_due()
        await firing.fire_due()
        assert await fired(opened) == {"good-id"}
