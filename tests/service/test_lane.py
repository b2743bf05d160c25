"""The lanes between the loop and its threads, when they end."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from headwater.errors import ShuttingDown
from headwater.threads import Lane


def twice(items: Sequence[int]) -> list[int]:
    return [2 * item for item in items]


@pytest.mark.anyio
async def test_a_lane_that_has_ended_says_that_the_server_stops() -> None:
    lane = Lane("twice", twice)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lane.run)
        assert await lane.submit(21) == 42
        tasks.cancel_scope.cancel()
    with pytest.raises(ShuttingDown):
        await lane.submit(1)


@pytest.mark.anyio
async def test_who_is_cancelled_with_a_lane_hears_only_of_that() -> None:
    lane = Lane("twice", twice)
    heard: list[str] = []

    async def use() -> None:
        try:
            await lane.submit(1)
        except ShuttingDown:
            heard.append("shutting down")
            raise
        except anyio.get_cancelled_exc_class():
            heard.append("cancelled")
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use)  # begins once the scope is cancelled, and before it has waited
        tasks.cancel_scope.cancel()
    assert heard == ["cancelled"]


@pytest.mark.anyio
async def test_a_panic_in_a_lane_is_told_and_the_lane_goes_on() -> None:
    class Panic(BaseException):
        """As code in Rust raises it in Python."""

    def work(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise Panic("index out of bounds")
        return twice(items)

    lane = Lane("panics", work)
    async with anyio.create_task_group() as tasks:
        await tasks.start(lane.run)
        with anyio.fail_after(10), pytest.raises(RuntimeError, match="index out of bounds"):
            await lane.submit(13)
        assert await lane.submit(21) == 42
        tasks.cancel_scope.cancel()
