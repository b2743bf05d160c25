"""When to try again: exponential backoff with full jitter, and what the provider says itself.

Used by `remote.py`. Full jitter as in "Exponential Backoff And Jitter" (AWS Architecture Blog,
2015): the wait is uniform between nothing and the bound. A retry library was not taken: the loop
around the call also asks the pace, the breaker and the deadline, which is all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime

_SPAN = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,9})?)(ms|[smhd]|$)")
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def backoff_s(attempt: int, first_s: float, longest_s: float, random: Callable[[], float]) -> float:
    """How long to wait before retry `attempt` (from 0); `random` gives 0 ≤ x < 1."""
    return min(longest_s, first_s * 2.0 ** min(attempt, 30)) * random()


def retry_after_s(headers: Mapping[str, str], now_us: int) -> float | None:
    """What `Retry-After` asks for (RFC 9110, section 10.2.3), or `retry-after-ms`, in seconds.

    Without either: when the limit that is used up is reset (OpenAI API reference, "Rate limits").
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        with suppress(ValueError):
            seconds = float(given) * unit
            if 0 <= seconds < 1e7:
                return seconds
        with suppress(ValueError, TypeError):
            at = parsedate_to_datetime(given)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return max(0.0, at.timestamp() - now_us / 1e6)
    return _reset_s(headers)


def _reset_s(headers: Mapping[str, str]) -> float | None:
    """The latest `x-ratelimit-reset-…` of those whose `x-ratelimit-remaining-…` is nothing."""
    waits = [
        seconds
        for limit in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{limit}", "").strip() == "0"
        and (seconds := _span_s(headers.get(f"x-ratelimit-reset-{limit}", ""))) is not None
    ]
    return max(waits, default=None)


def _span_s(given: str) -> float | None:
    """`6m0s`, `1.5s` or `20ms` in seconds; a bare number is in seconds."""
    parts = _SPAN.findall(given)
    if not parts or "".join(map("".join, parts)) != given:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
