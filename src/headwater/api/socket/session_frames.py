"""The frames of a session's socket, beside those in `frames.py`: what people may send, and get.

Requests and responses, errors and goodbyes are those of every socket. The structs here are what is
parsed and what `/asyncapi.json` describes.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw

from headwater.api.body import check_filter
from headwater.api.socket import frames
from headwater.api.socket.frames import RequestFrame
from headwater.api.socket.requests import PingData, Pong
from headwater.errors import InvalidFrame, InvalidJson, InvalidQuery, InvalidSession, UnknownField
from headwater.service.live import LiveQuery

Data = TypeVar("Data", bound=msgspec.Struct)


# ── From the client ─────────────────────────────────────────────────────────────────────────────


class MessageFrame(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Any JSON, passed on to all others who take it now; kept nowhere, and never answered."""

    type: Literal["message"]
    data: Raw


class ReviseData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Another query for everybody, in place of the one at `base_revision`; null asks nothing."""

    base_revision: int
    query: LiveQuery | None


class PlaceData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Exactly one of `chunk_id` (of a hit) and `document_id`. A note needs a `text`."""

    chunk_id: str | None = None
    document_id: str | None = None
    text: str | None = None


class EditPinData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pin_id: str
    base_revision: int
    text: str | None


class UnpinData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pin_id: str
    base_revision: int


class EditNoteData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    note_id: str
    base_revision: int
    text: str


class RemoveNoteData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    note_id: str
    base_revision: int


class StateData(msgspec.Struct, forbid_unknown_fields=True):
    """Have the `state` frame again."""


# ── To the client ───────────────────────────────────────────────────────────────────────────────


class AuthorJson(msgspec.Struct):
    name: str
    colour: str | None


class PersonJson(msgspec.Struct):
    """`process` is the server process that holds the connection."""

    person_id: str
    name: str
    colour: str | None
    joined_at: str
    process: str


class PinJson(msgspec.Struct):
    """`chunk_id` is null when the whole document is pinned; `title` is what it was then."""

    pin_id: str
    revision: int
    document_id: str
    chunk_id: str | None
    title: str | None
    text: str | None
    author: AuthorJson
    created_at: str
    updated_at: str


class NoteJson(msgspec.Struct):
    note_id: str
    revision: int
    document_id: str
    chunk_id: str | None
    title: str | None
    text: str
    author: AuthorJson
    created_at: str
    updated_at: str


class QueryJson(msgspec.Struct):
    """`revision` 0 is before anybody has asked. A vector is told as `vector_dimension`."""

    revision: int
    query: dict[str, Any] | None
    author: AuthorJson | None


class ResultsJson(msgspec.Struct):
    """What the query of that revision finds at `cursor`, best first."""

    revision: int
    cursor: str
    hits: list[dict[str, Any]]


class FailureJson(msgspec.Struct):
    """Why there are no results now; they are tried for again."""

    code: str
    detail: str
    retryable: bool


class SessionName(msgspec.Struct):
    session_id: str
    name: str
    library_id: str
    library: str


class StateJson(msgspec.Struct):
    session: SessionName
    cursor: str
    query: QueryJson
    results: ResultsJson | None
    failure: FailureJson | None
    people: list[PersonJson]
    pins: list[PinJson]
    notes: list[NoteJson]


class StateFrame(msgspec.Struct, kw_only=True):
    """Everything at once: first, and again whenever events were left out for a slow reader."""

    type: Literal["state"]
    data: StateJson


class ChangeFrame(msgspec.Struct, kw_only=True):
    """A change of the session; `event` is as in the stream of server-sent events."""

    type: Literal["event"]
    event: Raw


class ResultsFrame(msgspec.Struct, kw_only=True):
    """What the query of that `revision` tells; `data` is as in the stream of a live search.

    `failed` has a `FailureJson`: the query cannot be answered now, and will be tried again.
    """

    type: Literal["live"]
    revision: int
    event: Literal["snapshot", "ready", "enter", "update", "leave", "failed"]
    data: Raw


class PassedOnFrame(msgspec.Struct, kw_only=True):
    """What somebody else in the session passes on."""

    type: Literal["message"]
    person_id: str
    data: Raw


class SessionLimits(msgspec.Struct):
    """See the settings of sessions."""

    people: int
    pins: int
    notes: int
    note_chars: int
    k: int
    message_bytes: int
    messages_per_second: float
    requests_per_second: float


class SessionWelcomeFrame(msgspec.Struct, kw_only=True):
    """The first frame; the `state` follows. `person_id` is who has joined by this socket."""

    type: Literal["system"] = "system"
    event: Literal["welcome"] = "welcome"
    connection_id: str
    person_id: str
    session: SessionName
    cursor: str
    server_time: str
    version: str
    limits: SessionLimits


class SessionGoodbyeFrame(msgspec.Struct, kw_only=True):
    """The last frame before the server closes the socket to stop; join again in `retry_ms`."""

    type: Literal["system"] = "system"
    event: Literal["goodbye"] = "goodbye"
    reason: Literal["stopping"] = "stopping"
    cursor: str
    retry_ms: int


class Revised(msgspec.Struct):
    revision: int
    cursor: str


class Removed(msgspec.Struct):
    cursor: str


class StateComes(msgspec.Struct):
    """The `state` frame follows."""


SESSION_ACTIONS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    "revise": (ReviseData, Revised),
    "pin": (PlaceData, PinJson),
    "edit_pin": (EditPinData, PinJson),
    "unpin": (UnpinData, Removed),
    "note": (PlaceData, NoteJson),
    "edit_note": (EditNoteData, NoteJson),
    "remove_note": (RemoveNoteData, Removed),
    "state": (StateData, StateComes),
    "ping": (PingData, Pong),
}
"""What each action takes and gives."""

SESSION_SENT: tuple[type[msgspec.Struct], ...] = (
    SessionWelcomeFrame,
    SessionGoodbyeFrame,
    StateFrame,
    ChangeFrame,
    ResultsFrame,
    PassedOnFrame,
    frames.ResponseFrame,
    frames.FailureFrame,
    frames.ErrorFrame,
)
"""All that a server sends on a session's socket."""


class _Kind(msgspec.Struct):
    type: str = ""


_kind = msgspec.json.Decoder(_Kind).decode
_message = msgspec.json.Decoder(MessageFrame).decode


def parse(text: str) -> RequestFrame | MessageFrame:
    """One frame of a client. Raises as `frames.parse`."""
    try:
        if _kind(text).type == "message":
            return _message(text)
    except msgspec.ValidationError as error:
        if str(error).startswith("Expected `object`") or "$.type" in str(error):
            return frames.parse(text)  # which says what a frame is
        raise InvalidFrame(f'{error}; a message is {{"type":"message","data":…}}') from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidJson(f"the message is not JSON: {error}") from error
    return frames.parse(text)


def read(action: str, type: type[Data], raw: Raw) -> Data:
    """The data of a request.

    Raises `UnknownField`, `InvalidFilter`, `InvalidQuery`, `InvalidSession`.
    """
    try:
        return msgspec.json.decode(raw, type=type)
    except msgspec.ValidationError as error:
        check_filter(error)
        wrong = InvalidQuery if "$.query" in str(error) else InvalidSession
        kind = UnknownField if "unknown field" in str(error) else wrong
        raise kind(f"{error}; /asyncapi.json shows what {action!r} takes") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidFrame(f"`data` cannot be read: {error}") from error
