"""The nouns of the system, as plain values.

Imported by every layer above `errors`. Holds no behaviour that needs a database, a loop or a
clock. Times are Unix microseconds (`_us`) inside and RFC 3339 at the edge; JSON that is only
carried, never looked into, stays `bytes`.
"""

from headwater.model.documents import (
    Chunk,
    Described,
    Document,
    Draft,
    DraftChunk,
    Form,
    Passage,
    Pending,
    Status,
    Written,
    chunk_id,
)
from headwater.model.jobs import (
    Job,
    JobStatus,
    Missed,
    Progress,
    Schedule,
    Worker,
    WorkerMode,
    WorkerRole,
)
from headwater.model.libraries import Alert, Library, Metric, Quantization
from headwater.model.log import (
    EVENT_TYPES,
    NOTHING,
    AddedVectors,
    Change,
    Committed,
    Cursor,
    Position,
    Rows,
    Span,
    Vectors,
)
from headwater.model.sessions import Author, Mark, MarkKind, Person, Session, SessionState

__all__ = [
    "EVENT_TYPES",
    "NOTHING",
    "AddedVectors",
    "Alert",
    "Author",
    "Change",
    "Chunk",
    "Committed",
    "Cursor",
    "Described",
    "Document",
    "Draft",
    "DraftChunk",
    "Form",
    "Job",
    "JobStatus",
    "Library",
    "Mark",
    "MarkKind",
    "Metric",
    "Missed",
    "Passage",
    "Pending",
    "Person",
    "Position",
    "Progress",
    "Quantization",
    "Rows",
    "Schedule",
    "Session",
    "SessionState",
    "Span",
    "Status",
    "Vectors",
    "Worker",
    "WorkerMode",
    "WorkerRole",
    "Written",
    "chunk_id",
]
