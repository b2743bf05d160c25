"""When schedules fire: zones, changes of the clocks, missed turns."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest

from headwater.errors import InvalidSchedule
from headwater.jobs.schedule import NEVER_US, Timing, firings
from headwater.model import Missed

SECOND = 1_000_000
MINUTE = 60 * SECOND


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * SECOND


def shown(times: list[int]) -> list[str]:
    return [datetime.fromtimestamp(at / SECOND, UTC).strftime("%d %H:%M:%S") for at in times]


def after(timing: Timing, at: str, count: int) -> list[str]:
    return shown(list(islice(timing.after(us(at)), count)))


def test_cron_fires_in_its_own_zone() -> None:
    timing = Timing("30 9 * * mon-fri", "Asia/Kolkata", None, 0)
    assert after(timing, "2026-11-27T04:00:00+00:00", 2) == ["30 04:00:00", "01 04:00:00"]


def test_cron_with_seconds() -> None:
    timing = Timing("*/20 * * * * *", "UTC", None, 0)
    assert after(timing, "2026-11-27T04:00:00+00:00", 3) == [
        "27 04:00:20",
        "27 04:00:40",
        "27 04:01:00",
    ]


@pytest.mark.parametrize(
    ("start", "fired"),
    [
        # The hour that does not exist: at its end, not never. The hour that is there twice: once.
        ("2026-03-28T12:00:00+00:00", ["29 01:00:00", "30 00:30:00"]),
        ("2026-10-24T12:00:00+00:00", ["25 00:30:00", "26 01:30:00"]),
    ],
)
def test_a_daily_job_fires_once_a_day_when_clocks_change(start: str, fired: list[str]) -> None:
    assert after(Timing("30 2 * * *", "Europe/Berlin", None, 0), start, 2) == fired


def test_an_interval_keeps_its_beat() -> None:
    timing = Timing(None, "UTC", 7 * SECOND, 100 * SECOND)
    assert list(islice(timing.after(100 * SECOND), 2)) == [107 * SECOND, 114 * SECOND]
    assert timing.next(113 * SECOND) == 114 * SECOND
    assert list(islice(timing.before(113 * SECOND), 2)) == [107 * SECOND, 100 * SECOND]


@pytest.mark.parametrize(("missed", "expected"), [("all", [6, 7, 8]), ("once", [8]), ("skip", [8])])
@pytest.mark.parametrize("cron", [True, False])
def test_what_was_missed_by_little(missed: Missed, expected: list[int], cron: bool) -> None:
    timing = (
        Timing("* * * * *", "UTC", None, 0) if cron else Timing(None, "UTC", MINUTE, 3 * MINUTE)
    )
    now_us = 8 * MINUTE + 30 * SECOND
    fired, next_us = firings(timing, 3 * MINUTE, now_us, missed, MINUTE, 3)
    assert ([at // MINUTE for at in fired], next_us) == (expected, 9 * MINUTE)


def test_what_is_later_than_the_grace_is_skipped() -> None:
    timing = Timing("0 * * * *", "UTC", None, 0)
    hour = 60 * MINUTE
    assert firings(timing, hour, hour + 2 * MINUTE, "skip", MINUTE, 9) == ([], 2 * hour)
    assert firings(timing, hour, hour + 30 * SECOND, "skip", MINUTE, 9) == ([hour], 2 * hour)
    assert firings(timing, hour, hour + 2 * MINUTE, "once", MINUTE, 9) == ([hour], 2 * hour)


def test_years_of_missed_turns_cost_no_more_than_a_few() -> None:
    timing = Timing("* * * * * *", "UTC", None, 0)
    fired, next_us = firings(timing, 0, us("2026-11-27T04:00:00+00:00"), "all", MINUTE, 3)
    assert shown(fired) == ["27 03:59:58", "27 03:59:59", "27 04:00:00"]
    assert shown([next_us]) == ["27 04:00:01"]


def test_a_turn_on_time_is_one_firing() -> None:
    timing = Timing(None, "UTC", MINUTE, 3 * MINUTE)
    for missed in ("skip", "once", "all"):
        fired, next_us = firings(timing, 3 * MINUTE, 3 * MINUTE, missed, MINUTE, 9)
        assert (fired, next_us) == ([3 * MINUTE], 4 * MINUTE)


@pytest.mark.parametrize(
    ("cron", "zone", "every_us"),
    [
        (None, "UTC", None),
        ("* * * * *", "UTC", MINUTE),
        ("* * * *", "UTC", None),
        ("0 0 31 2 *", "UTC", None),
        ("* * * * *", "../etc/passwd", None),
        (None, "UTC", 1),
    ],
)
def test_what_makes_no_schedule(cron: str | None, zone: str, every_us: int | None) -> None:
    with pytest.raises(InvalidSchedule):
        Timing(cron, zone, every_us, 0)


def test_never_is_far_away() -> None:
    assert us("9999-01-01T00:00:00+00:00") < NEVER_US
