"""A token bucket lets through a burst, then a steady rate."""

from __future__ import annotations

import pytest

from headwater.api.socket.bucket import Bucket


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def now_us(self) -> int:
        return 0

    def uuid7(self) -> str:
        return ""


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    clock = Clock()
    bucket = Bucket(10, 5, clock)
    assert [bucket.take() for _ in range(5)] == [0.0] * 5
    assert bucket.take() == pytest.approx(0.1)
    clock.now_s += 0.05
    assert bucket.take() == pytest.approx(0.05)
    clock.now_s += 0.06
    assert bucket.take() == 0.0
    assert bucket.take() > 0


def test_quiet_fills_it_up_to_the_burst_and_no_further() -> None:
    clock = Clock()
    bucket = Bucket(10, 3, clock)
    clock.now_s += 1000
    assert [bucket.take() for _ in range(3)] == [0.0] * 3
    assert bucket.take() > 0


def test_whoever_waits_as_told_is_let_through() -> None:
    clock = Clock()
    bucket = Bucket(7, 1, clock)
    bucket.take()
    for _ in range(50):
        clock.now_s += bucket.take() + 1e-9
        assert bucket.take() == 0.0
