"""A server that cannot do it now: too much at once, or something it needs is away."""

from __future__ import annotations

from typing import Any

from headwater.errors.root import Unavailable


class Overloaded(Unavailable):
    code = "overloaded"


class TooManyWatches(Overloaded):
    """As many live queries are open as the settings allow."""

    code = "too_many_watches"


class TooManyJobs(Overloaded):
    """As many jobs wait as the settings allow."""

    code = "too_many_jobs"


class RateLimited(Unavailable):
    """`fields["retry_after_ms"]` says when one more is taken."""

    code = "rate_limited"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class EmbedderFailed(Unavailable):
    """The embedder refuses, or cannot be asked: until somebody changes something.

    `retryable` where it answered and the answer was wrong: another time it may be right.
    """

    code = "embedder_failed"

    def __init__(self, detail: str, *, retryable: bool = False, **fields: Any) -> None:
        super().__init__(detail, **fields)
        self.retryable = retryable


class EmbedderUnavailable(Unavailable):
    """The embedder does not answer now, or not in time; it may a moment later."""

    code = "embedder_unavailable"


class DiskFull(Unavailable):
    code = "disk_full"


class StoreFailed(Unavailable):
    """The database refuses now; not `retryable` where what it was asked to do is at fault."""

    code = "store_failed"

    def __init__(self, detail: str, *, retryable: bool = True, **fields: Any) -> None:
        super().__init__(detail, **fields)
        self.retryable = retryable
