"""The error tree: every failure a caller can meet, each with a stable code.

Raised by every layer, turned into HTTP by `api/problems.py` alone. A class here knows no HTTP; its
message always names the next step.

    HeadwaterError
    ├── InvalidInput            the caller must change the request
    │   ├── InvalidJson
    │   ├── InvalidDocument
    │   ├── UnknownField
    │   ├── InvalidVector
    │   ├── DimensionMismatch
    │   ├── InvalidCursor
    │   ├── InvalidQuery
    │   │   └── ModeNotLive
    │   ├── InvalidFilter
    │   ├── InvalidLibrary
    │   ├── InvalidSession
    │   ├── InvalidJob
    │   ├── InvalidSchedule
    │   ├── PathNotAllowed
    │   ├── UnreadableFile
    │   ├── InvalidHandshake
    │   ├── UnknownSubprotocol
    │   ├── UpgradeRequired
    │   ├── InvalidFrame
    │   └── UnknownAction
    ├── TooLarge                a limit in the settings was passed
    │   ├── LineTooLong
    │   ├── BodyTooLarge
    │   ├── TooManyItems
    │   ├── TooManyLines
    │   ├── TooManyHits
    │   ├── TooManyAlerts
    │   ├── TooManySubscriptions
    │   ├── TooManySessions
    │   ├── SessionFull
    │   ├── TooManyPins
    │   ├── TooManyNotes
    │   └── MessageTooLarge
    ├── NotFound
    │   ├── LibraryNotFound
    │   ├── DocumentNotFound
    │   ├── AlertNotFound
    │   ├── SubscriptionNotFound
    │   ├── WatchNotFound
    │   ├── SessionNotFound
    │   ├── PinNotFound
    │   ├── NoteNotFound
    │   ├── JobNotFound
    │   ├── ScheduleNotFound
    │   ├── WorkerNotFound
    │   └── FileMissing
    ├── Conflict
    │   ├── LibraryExists
    │   ├── DocumentExists
    │   ├── VersionMismatch
    │   ├── EmbedderMismatch
    │   ├── DuplicateRequest
    │   ├── SessionElsewhere
    │   ├── StaleRevision
    │   ├── JobFinished
    │   ├── JobNotFinished
    │   ├── IdempotencyMismatch
    │   ├── ScheduleExists
    │   ├── LeaseLost
    │   ├── SourceChanged
    │   ├── RegenerationRunning
    │   ├── RegenerationRefused
    │   └── Replaced
    ├── CursorExpired           the log no longer reaches back that far
    ├── FileExpired             what a job has made is kept for a time only
    ├── RangeNotSatisfiable
    ├── UnsupportedEncoding
    ├── JobFailed               a job could not be done; its own type says why
    ├── OriginRefused           a page of another site may not open a socket
    ├── Unavailable             try again
    │   ├── NotCaughtUp
    │   ├── Overloaded
    │   │   ├── TooManyWatches
    │   │   └── TooManyJobs
    │   ├── RateLimited
    │   ├── PresenceLost
    │   ├── ShuttingDown
    │   ├── EmbedderFailed
    │   ├── EmbedderUnavailable
    │   ├── DiskFull
    │   ├── LibraryRegenerated
    │   └── StoreFailed
    └── Refused                 the server will not start or run like this
"""

from __future__ import annotations

from typing import Any, ClassVar


class HeadwaterError(Exception):
    """The root. `code` is stable; `fields` are typed extras that reach the client."""

    code: ClassVar[str] = "internal"
    retryable: bool = False

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class InvalidInput(HeadwaterError):
    code = "invalid_input"


class InvalidJson(InvalidInput):
    code = "invalid_json"


class InvalidDocument(InvalidInput):
    code = "invalid_document"


class UnknownField(InvalidInput):
    code = "unknown_field"


class InvalidVector(InvalidInput):
    code = "invalid_vector"


class DimensionMismatch(InvalidInput):
    code = "dimension_mismatch"


class InvalidCursor(InvalidInput):
    code = "invalid_cursor"


class InvalidQuery(InvalidInput):
    code = "invalid_query"


class ModeNotLive(InvalidQuery):
    """A search of that mode cannot be kept open exactly."""

    code = "mode_not_live"


class InvalidFilter(InvalidInput):
    """`fields["path"]` is the place in the filter, such as `$or[1].year.$gte`."""

    code = "invalid_filter"


class InvalidLibrary(InvalidInput):
    code = "invalid_library"


class InvalidSession(InvalidInput):
    code = "invalid_session"


class InvalidJob(InvalidInput):
    """`fields["path"]` is the place in the request, such as `params.ids[3]`."""

    code = "invalid_job"


class InvalidSchedule(InvalidInput):
    code = "invalid_schedule"


class PathNotAllowed(InvalidInput):
    """A path on the server that leads out of the folder that imports may read."""

    code = "path_not_allowed"


class UnreadableFile(InvalidInput):
    """A file to be imported is not what it should be."""

    code = "unreadable_file"


class InvalidHandshake(InvalidInput):
    code = "invalid_handshake"


class UnknownSubprotocol(InvalidInput):
    code = "unknown_subprotocol"


class UpgradeRequired(InvalidInput):
    code = "upgrade_required"


class InvalidFrame(InvalidInput):
    code = "invalid_frame"


class UnknownAction(InvalidInput):
    code = "unknown_action"


class TooLarge(HeadwaterError):
    code = "too_large"


class LineTooLong(TooLarge):
    code = "line_too_long"


class BodyTooLarge(TooLarge):
    code = "body_too_large"


class TooManyItems(TooLarge):
    code = "too_many_items"


class TooManyLines(TooLarge):
    code = "too_many_lines"


class TooManyHits(TooLarge):
    """More hits than a live query may keep."""

    code = "too_many_hits"


class TooManyAlerts(TooLarge):
    code = "too_many_alerts"


class TooManySubscriptions(TooLarge):
    code = "too_many_subscriptions"


class TooManySessions(TooLarge):
    code = "too_many_sessions"


class SessionFull(TooLarge):
    code = "session_full"


class TooManyPins(TooLarge):
    code = "too_many_pins"


class TooManyNotes(TooLarge):
    code = "too_many_notes"


class MessageTooLarge(TooLarge):
    code = "message_too_large"


class NotFound(HeadwaterError):
    code = "not_found"


class LibraryNotFound(NotFound):
    code = "library_not_found"


class DocumentNotFound(NotFound):
    code = "document_not_found"


class AlertNotFound(NotFound):
    code = "alert_not_found"


class SubscriptionNotFound(NotFound):
    code = "subscription_not_found"


class WatchNotFound(NotFound):
    code = "watch_not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"


class PinNotFound(NotFound):
    code = "pin_not_found"


class NoteNotFound(NotFound):
    code = "note_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class ScheduleNotFound(NotFound):
    code = "schedule_not_found"


class WorkerNotFound(NotFound):
    code = "worker_not_found"


class FileMissing(NotFound):
    code = "file_not_found"


class Conflict(HeadwaterError):
    code = "conflict"


class LibraryExists(Conflict):
    code = "library_exists"


class DocumentExists(Conflict):
    code = "document_exists"


class VersionMismatch(Conflict):
    code = "version_mismatch"


class EmbedderMismatch(Conflict):
    code = "embedder_mismatch"


class SessionElsewhere(Conflict):
    """A session of that name is on another library."""

    code = "session_elsewhere"


class StaleRevision(Conflict):
    """Somebody else was quicker; `fields["current"]` is what there is now."""

    code = "stale_revision"


class JobFinished(Conflict):
    """There is nothing left of the job that could be cancelled."""

    code = "job_finished"


class JobNotFinished(Conflict):
    """A job is tried again only when it has failed or was cancelled."""

    code = "job_not_finished"


class IdempotencyMismatch(Conflict):
    """The key was used for another job; `fields["job_id"]` is which."""

    code = "idempotency_mismatch"


class ScheduleExists(Conflict):
    code = "schedule_exists"


class LeaseLost(Conflict):
    """Another worker has the job by now, or nobody: what this one did of it does not count."""

    code = "lease_lost"


class SourceChanged(Conflict):
    """The file of an import is not the one that it began with."""

    code = "source_changed"


class RegenerationRunning(Conflict):
    """Another job makes the library's vectors anew."""

    code = "regeneration_running"


class RegenerationRefused(Conflict):
    """The library holds what cannot be embedded anew."""

    code = "regeneration_refused"


class DuplicateRequest(Conflict):
    code = "duplicate_request"


class Replaced(Conflict):
    """Another connection of the same client has taken this one's place in a session."""

    code = "replaced"


class CursorExpired(HeadwaterError):
    """`fields["earliest"]` is the oldest cursor that can still be read after."""

    code = "cursor_expired"


class FileExpired(HeadwaterError):
    code = "file_expired"


class RangeNotSatisfiable(HeadwaterError):
    """`size_bytes`: how long the file is."""

    code = "range_not_satisfiable"


class UnsupportedEncoding(HeadwaterError):
    code = "unsupported_encoding"


class JobFailed(HeadwaterError):
    """Raised by handlers. With `retryable` the job is tried again while it has attempts left."""

    code = "job_failed"

    def __init__(self, detail: str, *, retryable: bool = False, **fields: Any) -> None:
        super().__init__(detail, **fields)
        self.retryable = retryable


class OriginRefused(HeadwaterError):
    code = "origin_refused"


class Unavailable(HeadwaterError):
    code = "unavailable"
    retryable = True


class NotCaughtUp(Unavailable):
    code = "not_caught_up"


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


class PresenceLost(Unavailable):
    """The others were told that this person is gone, as this server did not say otherwise."""

    code = "presence_lost"


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


class LibraryRegenerated(Unavailable):
    """The library's vectors are of another generation by now than those that came."""

    code = "library_regenerated"


class DiskFull(Unavailable):
    code = "disk_full"


class StoreFailed(Unavailable):
    code = "store_failed"


class Refused(HeadwaterError):
    code = "refused"
