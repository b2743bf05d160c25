"""The machines around a call: breaker, pace, backoff, retry-after, calls cut from requests."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import anyio
import pytest

from headwater.embed.backlog import CALL_CHARS, Backlog, Request
from headwater.embed.breaker import Breaker
from headwater.embed.figures import Durations
from headwater.embed.pace import Bucket
from headwater.embed.retry import backoff_s, retry_after_s

pytestmark = pytest.mark.anyio


class Hand:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_lets_one_try_and_closes() -> None:
    hand = Hand()
    breaker = Breaker(3, 10.0, hand)
    for _ in range(2):
        assert breaker.admit()
        breaker.failed()
    assert breaker.admit()
    breaker.succeeded()
    for _ in range(3):
        assert breaker.admit()
        breaker.failed()
    assert (breaker.state, breaker.refuses_s, breaker.admit()) == ("open", 10.0, False)
    hand.now = 10.0
    assert breaker.state == "half_open"
    assert breaker.admit()
    assert not breaker.admit(), "one at a time"
    breaker.failed()
    assert (breaker.state, breaker.refuses_s) == ("open", 10.0)
    hand.now = 20.0
    assert breaker.admit()
    breaker.succeeded()
    assert (breaker.state, breaker.opened) == ("closed", 2)
    assert breaker.admit()
    assert breaker.admit()


def test_calls_that_were_under_way_when_it_opened_do_not_keep_it_open_longer() -> None:
    hand = Hand()
    breaker = Breaker(2, 10.0, hand)
    for _ in range(5):
        assert breaker.admit()
    breaker.failed()
    breaker.failed()
    hand.now = 8.0
    breaker.failed()
    assert (breaker.refuses_s, breaker.opened) == (2.0, 1)


@pytest.mark.parametrize("amount", [1, 7, 100, 5_000])
def test_a_bucket_keeps_its_rate(amount: int) -> None:
    bucket = Bucket(600, 0.0)
    now = taken = 0.0
    while now < 600:
        now += bucket.wait_s(amount, now)
        bucket.take(amount, now)
        taken += amount
    assert taken <= 10 * now + 30 + amount
    assert taken >= 10 * now


def test_backoff_has_full_jitter_below_a_bound() -> None:
    assert [backoff_s(n, 0.5, 20, lambda: 1.0) for n in range(7)] == [0.5, 1, 2, 4, 8, 16, 20]
    assert backoff_s(1_000, 0.5, 20, lambda: 0.5) == 10
    assert backoff_s(3, 0.5, 20, lambda: 0.0) == 0


def test_retry_after_is_read_in_its_forms() -> None:
    now_us = 1_800_000_000_000_000
    later = datetime.fromtimestamp(1_800_000_030, UTC)
    assert retry_after_s({"retry-after": "3"}, now_us) == 3
    assert retry_after_s({"retry-after": "1.5"}, now_us) == 1.5
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "1"}, now_us) == 0.25
    assert retry_after_s({"retry-after": format_datetime(later, usegmt=True)}, now_us) == 30
    for wrong in ("-1", "nan", "inf", "soon", ""):
        assert retry_after_s({"retry-after": wrong}, now_us) is None
    assert retry_after_s({}, now_us) is None


@pytest.mark.parametrize(
    ("remaining", "reset", "seconds"),
    [
        ("0", "6m0s", 360),
        ("0", "20ms", 0.02),
        ("0", "1h2m3.5s", 3_723.5),
        ("0", "7", 7),
        ("0", "soon", None),
        ("0", "1s!", None),
        ("0", "", None),
        ("5", "3s", None),
    ],
)
def test_without_retry_after_the_reset_of_a_limit_that_is_used_up_counts(
    remaining: str, reset: str, seconds: float | None
) -> None:
    used_up = {"x-ratelimit-remaining-tokens": remaining, "x-ratelimit-reset-tokens": reset}
    other = {"x-ratelimit-remaining-requests": "2999", "x-ratelimit-reset-requests": "9h"}
    assert retry_after_s(used_up | other, 0) == seconds
    assert retry_after_s(used_up | other | {"retry-after": "2"}, 0) == 2


async def test_a_call_has_no_more_characters_than_it_may_but_at_least_one_text() -> None:
    backlog = Backlog("m", 100)
    long = "x" * (CALL_CHARS // 2)
    texts = ["x" * (CALL_CHARS + 5), long, long, "a", long, "b"]
    backlog.put(Request(texts, 1, 10, anyio.current_time))
    taken = []
    while backlog.waiting:
        pieces = await backlog.take(lambda: 100, 0)
        taken.append([len(text) for piece in pieces for text in piece.texts])
    half = CALL_CHARS // 2
    assert taken == [[CALL_CHARS + 5], [half, half], [1, half, 1]]


def test_durations_give_percentiles_of_the_recent() -> None:
    durations = Durations()
    assert durations.statistics() == {"count": 0, "p50_ms": None, "p99_ms": None, "max_ms": None}
    for number in range(1, 1_001):
        durations.add(number / 1000)
    figures = durations.statistics()
    assert figures["count"] == 1_000
    assert 740 < figures["p50_ms"] < 750
    assert figures["max_ms"] == 1_000
