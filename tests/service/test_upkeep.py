"""What the server does when nobody asks, and what must not end it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from service.whole import Scarce, running
from store.backend import create

from headwater.app import Parts
from headwater.model import Library
from headwater.settings import LogSettings, Settings
from headwater.store import DataFolder
from headwater.store.batch_commands import BeginBatch

pytestmark = pytest.mark.anyio


def settings(folder: Path) -> Settings:
    return Settings(data=folder, log=LogSettings(trim_every=timedelta(milliseconds=20)))


async def told(parts: Parts, type: str) -> None:
    """Return when the log has a change of that type."""
    with anyio.fail_after(20):
        while True:
            head = parts.log.head
            page = await parts.store.read(lambda reader: reader.log(0, 1_000, types=(type,)))
            if page.changes:
                return
            await parts.log.bell.wait_past(head)


async def test_a_keeper_without_files_to_spare_goes_on_ending_what_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings(tmp_path)) as parts:
        scarce = Scarce(parts.folder.alive)
        monkeypatch.setattr(parts.folder, "alive", scarce)
        library: Library = await parts.store.write(create("books"))
        await parts.store.write(BeginBatch(library.number, "left", "a process that ended"))
        await told(parts, "batch.failed")
        assert not scarce.left


async def test_a_process_without_files_to_spare_takes_over_when_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.service.upkeep.TAKE_OVER_S", 0.02)
    keeper = DataFolder(tmp_path)
    assert keeper.claim()
    async with running(settings(tmp_path)) as parts:
        assert not parts.folder.keeps
        claim = parts.folder.claim

        def released() -> bool:
            keeper.release()
            return claim()

        monkeypatch.setattr(parts.folder, "claim", Scarce(released))
        library: Library = await parts.store.write(create("books"))
        await parts.store.write(BeginBatch(library.number, "left", "a process that ended"))
        await told(parts, "batch.failed")
        assert parts.folder.keeps
