"""The bell: who waits for a position is woken when it has come, never before."""

from __future__ import annotations

import anyio
import pytest

from headwater.changes import Bell
from headwater.changes.bell import Place

pytestmark = pytest.mark.anyio


async def test_a_waiter_returns_at_once_when_the_position_is_past() -> None:
    bell = Bell(5)
    with anyio.fail_after(5):
        assert await bell.wait_past(4) == 5


async def test_a_waiter_sleeps_through_lower_rings_and_wakes_past_its_own() -> None:
    bell = Bell(1)
    woken: list[int] = []

    async def wait(position: int) -> None:
        woken.append(await bell.wait_past(position))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, 1)
            tasks.start_soon(wait, 5)
            await anyio.wait_all_tasks_blocked()
            bell.ring(1)
            bell.wake()
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            bell.ring(5)
            await anyio.wait_all_tasks_blocked()
            assert woken == [5]
            bell.ring(3)
            assert bell.position == 5
            bell.ring(9)
    assert woken == [5, 9]


async def test_those_of_a_lower_place_are_woken_before_those_who_waited_longer() -> None:
    bell = Bell(1)
    woken: list[str] = []

    async def wait(name: str, place: Place) -> None:
        await bell.wait_past(1, place=place)
        woken.append(name)

    waiting: list[tuple[str, Place]] = [("reader", 2), ("view", 1), ("pump", 0), ("follower", 2)]
    async with anyio.create_task_group() as tasks:
        for name, place in waiting:
            tasks.start_soon(wait, name, place)
            await anyio.wait_all_tasks_blocked()
        bell.ring(2)
    assert woken == ["pump", "view", "reader", "follower"]


async def test_wake_lets_everybody_look_again_without_news() -> None:
    bell = Bell(7)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell.wait_change)
        await anyio.wait_all_tasks_blocked()
        bell.wake()
    assert bell.position == 7
