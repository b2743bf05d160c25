"""What may be asked for on a socket: one struct per action, and what it is answered with.

The same fields as the HTTP route that does the same, checked by the same services.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from headwater.api import wire
from headwater.api.body import check_filter
from headwater.errors import (
    HeadwaterError,
    InvalidDocument,
    InvalidFrame,
    InvalidInput,
    InvalidQuery,
    UnknownField,
)
from headwater.feeds.event import Format
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.service.live import LiveQuery
from headwater.service.query import Query
from headwater.service.render import DocumentJson

Wait = Literal["searchable", "durable"]
Data = TypeVar("Data", bound=msgspec.Struct)


class SearchData(Query, forbid_unknown_fields=True):
    """As the body of `POST …/search`; `query_text` is another name for `query`."""

    query_text: str | None = None


class AddData(DocumentInput, forbid_unknown_fields=True):
    """As the body of `POST …/documents`: the document must be new."""

    wait: Wait = "searchable"


class UpdateData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """With `text`, `texts` or `chunks` the document is put there whole, as by `PUT`.

    Without them only `title` and `metadata` (a JSON merge patch) are changed, as by `PATCH`.
    """

    id: str
    title: str | UnsetType | None = UNSET
    text: str | None = None
    texts: list[str] | None = None
    chunks: list[ChunkInput] | None = None
    metadata: dict[str, Any] | UnsetType | None = UNSET
    author: str | None = None
    document_type: str | None = None
    source_url: str | None = None
    tags: list[str] | None = None
    if_version: int | None = None
    wait: Wait = "searchable"


class DeleteData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    id: str
    if_version: int | None = None
    wait: Wait = "searchable"


class GetData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`include` may name `chunks` and `vectors`."""

    id: str
    include: list[str] = []


class SubscribeData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """As the parameters of `GET …/events/stream`; `types` also as a list.

    `max_unacked`: at most so many events are sent beyond the last acknowledged one.
    """

    types: str | list[str] | None = None
    filter: dict[str, Any] | None = None
    after: str = "now"
    include: list[str] = []
    format: Format = "json"
    max_unacked: Annotated[int, msgspec.Meta(ge=1)] | None = None


class UnsubscribeData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    subscription_id: str


class AckData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything up to `cursor`, the id of an event, has been dealt with."""

    subscription_id: str
    cursor: str


class WatchData(LiveQuery, forbid_unknown_fields=True):
    """As the body of `POST …/search/live`; `after` resumes, `query_text` is `query`."""

    query_text: str | None = None
    after: str | None = None


class UnwatchData(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    watch_id: str


class PingData(msgspec.Struct, forbid_unknown_fields=True):
    pass


class SearchAnswer(msgspec.Struct, omit_defaults=True):
    """As the answer of `POST …/search`. In parts, all but the last have `results` only."""

    results: list[dict[str, Any]]
    cursor: str | None = None
    took_ms: float | None = None
    next: str | None = None
    degraded: str | None = None
    explanation: dict[str, Any] | None = None


class Subscribed(msgspec.Struct):
    """Its events follow, those after `cursor`."""

    subscription_id: str
    cursor: str


class Unsubscribed(msgspec.Struct):
    """No event follows; everything up to `cursor` was told."""

    subscription_id: str
    cursor: str


class Acked(msgspec.Struct):
    """`unacked` events wait to be acknowledged, `pending` changes to be looked at."""

    subscription_id: str
    cursor: str
    unacked: int
    pending: int


class Watched(msgspec.Struct):
    """Its frames follow: `snapshot` and `ready`, or with `after` the difference."""

    watch_id: str


class Unwatched(msgspec.Struct):
    """No frame follows; `cursor` is what was told last, empty when nothing was."""

    watch_id: str
    cursor: str


class Pong(msgspec.Struct):
    server_time: str
    cursor: str


ACTIONS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    "search": (SearchData, SearchAnswer),
    "add": (AddData, wire.WriteAnswer),
    "update": (UpdateData, wire.WriteAnswer),
    "delete": (DeleteData, wire.Deleted),
    "get": (GetData, DocumentJson),
    "subscribe": (SubscribeData, Subscribed),
    "unsubscribe": (UnsubscribeData, Unsubscribed),
    "watch": (WatchData, Watched),
    "unwatch": (UnwatchData, Unwatched),
    "ack": (AckData, Acked),
    "ping": (PingData, Pong),
}
"""What each action takes and gives."""

_WRONG: dict[str, type[HeadwaterError]] = {
    "search": InvalidQuery,
    "watch": InvalidQuery,
    "subscribe": InvalidQuery,
    "add": InvalidDocument,
    "update": InvalidDocument,
}


def read(action: str, type: type[Data], raw: Raw) -> Data:
    """The data of a request. Raises `UnknownField`, `InvalidFilter`, or what is wrong for that
    action."""
    try:
        return msgspec.json.decode(raw, type=type)
    except msgspec.ValidationError as error:
        check_filter(error)
        if "unknown field" in str(error):
            raise UnknownField(f"{error}; /asyncapi.json shows what {action!r} takes") from error
        wrong = _WRONG.get(action, InvalidInput)
        raise wrong(f"{error}; /asyncapi.json shows what {action!r} takes") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidFrame(f"`data` cannot be read: {error}") from error


def text_of(data: SearchData | WatchData) -> None:
    """Let `query_text` be `query`. Raises `InvalidQuery` when both are there."""
    if data.query_text is None:
        return
    if data.query is not None:
        raise InvalidQuery("`query_text` is another name for `query`; give one of them")
    data.query, data.query_text = data.query_text, None
