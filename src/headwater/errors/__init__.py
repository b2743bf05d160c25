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
    │   ├── AnswerTooLarge
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

# All of them, as the tree above names them; a test compares the two.
from headwater.errors.connections import *  # noqa: F403
from headwater.errors.documents import *  # noqa: F403
from headwater.errors.jobs import *  # noqa: F403
from headwater.errors.root import *  # noqa: F403
from headwater.errors.search import *  # noqa: F403
from headwater.errors.service import *  # noqa: F403
from headwater.errors.sessions import *  # noqa: F403
