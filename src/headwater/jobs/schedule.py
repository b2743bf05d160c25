"""When a schedule fires: cron expressions in a time zone, and intervals.

Pure arithmetic of times; what fires is submitted by `scheduler.py`. Cron expressions are those of
Debian's cron (crontab(5)), five fields, or six with seconds first; in the hours around a change of
the clocks they fire as that cron does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from headwater.clock import EPOCH
from headwater.errors import InvalidSchedule
from headwater.model import Missed, Schedule

NEVER_US = 1 << 62
SHORTEST_US = 1_000_000
"""The shortest interval."""
LONGEST_US = 366 * 86_400_000_000


class Timing:
    """The times of a schedule. `anchor_us` is a firing of an interval; the others follow from it.

    Raises `InvalidSchedule` when the expression, zone or interval is wrong.
    """

    def __init__(
        self, cron: str | None, timezone: str, every_us: int | None, anchor_us: int
    ) -> None:
        if (cron is None) == (every_us is None):
            raise InvalidSchedule("give either `cron` or `every_seconds`")
        if every_us is not None and not SHORTEST_US <= every_us <= LONGEST_US:
            raise InvalidSchedule(
                f"`every_seconds` must be from {SHORTEST_US // 1_000_000} to "
                f"{LONGEST_US // 1_000_000}"
            )
        self._cron = cron
        self._every_us = every_us
        self._anchor_us = anchor_us
        self._zone = _zone(timezone)
        if cron is not None:
            try:
                next(CronSim(cron, datetime.now(self._zone)))
            except CronSimError as error:
                raise InvalidSchedule(
                    f"the cron expression {cron[:80]!r} is wrong ({error}); as in `0 3 * * mon-fri`"
                ) from error
            except StopIteration:
                raise InvalidSchedule(
                    f"the cron expression {cron[:80]!r} never fires; such a day does not exist"
                ) from None

    @classmethod
    def of(cls, schedule: Schedule) -> Timing:
        return cls(schedule.cron, schedule.timezone, schedule.every_us, schedule.next_us)

    def after(self, us: int) -> Iterator[int]:
        """The firings after `us`, rising; a cron expression may have none in the next 50 years."""
        if self._every_us is not None:
            steps = (us - self._anchor_us) // self._every_us + 1
            while True:
                yield self._anchor_us + steps * self._every_us
                steps += 1
        assert self._cron is not None
        start = (EPOCH + timedelta(microseconds=us)).astimezone(self._zone)
        for moment in CronSim(self._cron, start):
            fires_us = (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
            if fires_us > us:
                yield fires_us

    def before(self, us: int) -> Iterator[int]:
        """The firings up to `us`, falling."""
        if self._every_us is not None:
            steps = (us - self._anchor_us) // self._every_us
            while True:
                yield self._anchor_us + steps * self._every_us
                steps -= 1
        assert self._cron is not None
        # Its moments are whole, and the one it starts from is left out.
        start = (EPOCH + timedelta(microseconds=us, seconds=1)).astimezone(self._zone)
        for moment in CronSim(self._cron, start, reverse=True):
            fires_us = (moment.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
            if fires_us <= us:
                yield fires_us

    def next(self, us: int) -> int:
        """The first firing after `us`; far away when there is none any more."""
        return next(self.after(us), NEVER_US)


def firings(
    timing: Timing, due_us: int, now_us: int, missed: Missed, grace_us: int, most: int
) -> tuple[list[int], int]:
    """What fires now of a schedule whose turn was at `due_us`, and when its next turn is.

    Firings later than `grace_us` are missed. `skip` lets them go; `once` makes one of them, the
    latest, whether there are others or not; `all` makes up for each, the latest `most` of them.
    """
    looked_at = islice(timing.before(now_us), most if missed == "all" else 1)
    passed = sorted(takewhile(lambda fires_us: fires_us >= due_us, looked_at)) or [due_us]
    if missed == "skip" and now_us - passed[-1] > grace_us:
        passed = []
    return passed, timing.next(now_us)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise InvalidSchedule(
            f"there is no time zone {name[:80]!r}; name one as in `Europe/Berlin`, or `UTC`"
        ) from error
