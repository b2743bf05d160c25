"""Time and identity, passed in so that tests can hold both still.

Every part that stamps or names something receives a `Clock`; nobody reads the system's directly.
"""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

chance = random.Random().random
"""A number from 0 to below 1, by a generator of our own: anybody may seed the module's."""


class Clock(Protocol):
    """What a part may ask of time. `now_us` is Unix time in microseconds."""

    def now_us(self) -> int: ...

    def monotonic(self) -> float:
        """Seconds that only go forward; for durations."""
        ...

    def uuid7(self) -> str:
        """A new UUIDv7 (RFC 9562, section 5.7), increasing within this process."""
        ...


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._random = random.Random(os.urandom(32)).getrandbits

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def uuid7(self) -> str:
        # 48 bits of milliseconds, then 12 bits of sub-millisecond time made strictly increasing
        # (RFC 9562, section 6.2, method 3), then 62 random bits.
        with self._lock:
            ticks = (time.time_ns() << 12) // 1_000_000
            self._last = ticks = max(ticks, self._last + 1)
            # Not from the system at each call: that lets go of the GIL, and getting it back costs
            # the loop more than all else about a request's name.
            tail = self._random(62)
        value = (ticks >> 12) << 80 | 7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | tail
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def rfc3339(us: int) -> str:
    """Microseconds since the epoch as RFC 3339 in UTC, always with six decimals and `Z`."""
    # Whole numbers all the way: as a float, the last microsecond of 9999 is in the year 10000.
    return (EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds")[:-6] + "Z"
