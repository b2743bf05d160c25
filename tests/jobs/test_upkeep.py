"""Jobs that ended long ago are forgotten, with their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jobs.pool import Pool, pool

from headwater.jobs.upkeep import UNTOUCHED_S, JobUpkeep
from headwater.store import DataFolder
from headwater.threads import Pool as Threads

pytestmark = pytest.mark.anyio

HOUR_US = 3_600_000_000


def upkeep(opened: Pool, data: Path) -> JobUpkeep:
    return JobUpkeep(
        opened.log,
        DataFolder(data),
        opened.folder,
        opened.clock,
        opened.settings,
        Threads("work", 1),
    )


async def test_old_jobs_go_with_their_folders(tmp_path: Path) -> None:
    async with pool(tmp_path, keep=3_600, keep_failed=7_200) as opened:
        done, failed = (
            *await opened.submit("count", to=1),
            *await opened.submit("fail", retryable=False),
        )
        await opened.ended([done, failed])
        (waits,) = await opened.submit("nothing", not_before_us=1 << 60)
        tidy = upkeep(opened, tmp_path)
        await tidy.forget()
        assert (opened.folder / done).is_dir()
        opened.clock.us = opened.clock.now_us() + HOUR_US + 1_000_000
        await tidy.forget()
        left = await opened.log.store.read(lambda r: r.job_ids([done, failed, waits]))
        assert left == {failed, waits}
        assert not (opened.folder / done).exists()
        opened.clock.us += HOUR_US
        await tidy.forget()
        assert await opened.log.store.read(lambda r: r.job_ids([failed, waits])) == {waits}


async def test_folders_without_a_job_go_once_they_are_old(tmp_path: Path) -> None:
    async with pool(tmp_path) as opened:
        (id,) = await opened.submit("count", to=1)
        await opened.until(id, "completed")
        for name in ("broken-off", "under-way", "slow"):
            (opened.folder / name).mkdir()
            (opened.folder / name / "source.ndjson").touch()
        old_s = opened.clock.now_us() / 1_000_000 - UNTOUCHED_S - 60
        for old in (id, "broken-off", "broken-off/source.ndjson", "slow"):
            os.utime(opened.folder / old, (old_s, old_s))
        await upkeep(opened, tmp_path).sweep()
        assert {path.name for path in opened.folder.iterdir()} == {id, "under-way", "slow"}
