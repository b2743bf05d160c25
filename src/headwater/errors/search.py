"""Searches, and those that stay open: live queries and alerts."""

from __future__ import annotations

from headwater.errors.root import InvalidInput, NotFound, TooLarge, Unavailable


class InvalidQuery(InvalidInput):
    code = "invalid_query"


class ModeNotLive(InvalidQuery):
    """A search of that mode cannot be kept open exactly."""

    code = "mode_not_live"


class InvalidFilter(InvalidInput):
    """`fields["path"]` is the place in the filter, such as `$or[1].year.$gte`."""

    code = "invalid_filter"


class AnswerTooLarge(TooLarge):
    """More passages, or longer vectors, than one answer may hold."""

    code = "answer_too_large"


class TooManyHits(TooLarge):
    """More hits than a live query may keep."""

    code = "too_many_hits"


class TooManyAlerts(TooLarge):
    code = "too_many_alerts"


class AlertNotFound(NotFound):
    code = "alert_not_found"


class WatchNotFound(NotFound):
    code = "watch_not_found"


class NotCaughtUp(Unavailable):
    code = "not_caught_up"


class LibraryRegenerated(Unavailable):
    """The library's vectors are of another generation by now than those that came."""

    code = "library_regenerated"
