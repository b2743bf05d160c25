"""Datagrams between the processes of one folder: each `Bus` here stands for a process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from headwater.live.bus import LARGEST_BYTES, LONGEST_PATH, Bus

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(folder: Path, *names: str) -> AsyncIterator[list[Bus]]:
    buses = [Bus(folder, name) for name in names]
    async with anyio.create_task_group() as tasks:
        for bus in buses:
            await tasks.start(bus.run)
        yield buses
        tasks.cancel_scope.cancel()


def short_places() -> set[Path]:
    """Where sockets are whose own path would be too long."""
    return set(Path(tempfile.gettempdir()).glob("headwater-*"))


class Ear:
    """Keeps what a bus hears, to wait for."""

    def __init__(self, bus: Bus) -> None:
        self.heard: list[bytes] = []
        self._more = anyio.Event()
        bus.on_datagram(self._hear)

    def _hear(self, datagram: bytes) -> None:
        self.heard.append(datagram)
        self._more.set()

    async def have(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.heard) < count:
                self._more = anyio.Event()
                await self._more.wait()


async def test_what_one_says_the_other_hears(tmp_path: Path) -> None:
    async with running(tmp_path, "one", "two") as (one, two):
        here, there = Ear(one), Ear(two)
        assert one.send("two", b"hello")
        assert two.send("one", b"x" * LARGEST_BYTES)
        await here.have(1)
        await there.have(1)
        assert (there.heard, len(here.heard[0])) == ([b"hello"], LARGEST_BYTES)
        assert (one.figures.sent, one.figures.received, one.figures.dropped) == (1, 1, 0)


async def test_a_folder_with_a_long_path_works_too(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "bus"
    assert len(os.fsencode(folder)) > LONGEST_PATH
    before = short_places()
    async with running(folder, "one", "two") as (one, two):
        there = Ear(two)
        assert one.send("two", b"far")
        await there.have(1)
    assert list(folder.iterdir()) == []
    assert short_places() == before


async def test_what_cannot_be_delivered_is_dropped_and_counted(tmp_path: Path) -> None:
    async with running(tmp_path, "one") as (one,):
        assert not one.send("nobody", b"hello")
        assert not one.send("one", b"x" * (LARGEST_BYTES + 1))
        sent = 0
        while one.send("one", b"x" * 1_000):  # nobody reads meanwhile: its buffer fills up
            sent += 1
            assert sent < 100_000
        assert one.figures.dropped == 3
        ear = Ear(one)
        await ear.have(sent)
        assert one.send("one", b"again")
        await ear.have(sent + 1)
    assert not one.send("one", b"after the end")


async def test_a_process_that_came_again_is_reached(tmp_path: Path) -> None:
    async with running(tmp_path, "one") as (one,):
        async with running(tmp_path, "two"):
            assert one.send("two", b"first")
        assert not one.send("two", b"nobody is there")
        async with running(tmp_path, "two") as (two,):
            there = Ear(two)
            assert one.send("two", b"second")
            await there.have(1)
            assert there.heard == [b"second"]


async def test_what_the_dead_left_is_swept_away(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "bus"
    async with running(folder, "one") as (one,):
        left = Bus(folder, "dead")
        end = left._open()
        place = Path(os.readlink(folder / "dead"))
        end.close()  # and no more: as after a kill
        assert place.parent in short_places()
        one.sweep(lambda: {"one"})
        assert {mark.name for mark in folder.iterdir()} == {"one"}
        assert place.parent not in short_places()
        assert one.send("one", b"still here")


async def test_a_folder_that_holds_no_socket_only_means_silence(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "in the way").touch()
    async with running(tmp_path, "one", "two") as (one, two):
        assert not one.send("two", b"hello")
        assert not two.send("one", b"hello")
