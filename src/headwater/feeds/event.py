"""Changes as the events that clients read: JSON and CloudEvents, SSE frames.

The only place that knows how an event looks. It must give the same bytes for the same change
whoever asks, so that encoded frames can be shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import msgspec

from headwater.clock import rfc3339
from headwater.feeds.selection import Selection
from headwater.model import Change, Cursor, chunk_id

Format = Literal["json", "cloudevents"]

_encode = msgspec.json.Encoder().encode
_timestamp = lru_cache(maxsize=1024)(rfc3339)


class Event(NamedTuple):
    """One event, ready to send. `json` is the whole event object, encoded."""

    cursor: str
    type: str
    json: bytes


class _Expansion(msgspec.Struct):
    document_id: str
    num_chunks: int = 0
    previous_num_chunks: int = 0
    chunks_kept: bool = False
    version: int = 0
    batch_id: str | None = None


def events(
    change: Change,
    selection: Selection,
    log_id: str,
    format: Format = "json",
    documents: Mapping[tuple[str | None, str | None], bytes] | None = None,
    skip: int = 0,
) -> list[Event]:
    """The events of one change that `selection` tells, in order, without the first `skip`.

    The document event comes first, then `chunk.deleted` and `chunk.added` by ordinal. With
    `documents` given, document events carry the latest state found there (or null). The last
    event has the change's own cursor; those before it have one that resumes inside the change.
    """
    cursor = f"{log_id}.{change.position}"
    if not selection.chunks or not change.type.startswith("document."):
        if skip or change.type not in selection.told:
            return []
        return [_event(cursor, change.type, change, change.data, format, documents)]

    told: list[tuple[int, str, bytes]] = []
    if change.type in selection.told:
        told.append((0, change.type, change.data))
    ordinal = 1
    facts = msgspec.json.decode(change.data, type=_Expansion)
    for kind, count in _chunk_counts(change.type, facts):
        if kind in selection.told:
            for number in range(count):
                data = {
                    "chunk_id": chunk_id(facts.document_id, number),
                    "document_id": facts.document_id,
                    "ordinal": number,
                    "version": facts.version,
                }
                if facts.batch_id:
                    data["batch_id"] = facts.batch_id
                told.append((ordinal + number, kind, _encode(data)))
        ordinal += count
    result = []
    for place, kind, data_json in told:
        last = place == told[-1][0]
        own = cursor if last else str(Cursor(log_id, change.position - 1, place + 1))
        if place >= skip:
            joined = documents if place == 0 else None
            result.append(_event(own, kind, change, data_json, format, joined))
    return result


def sse(event: Event) -> bytes:
    """One event as a server-sent event (WHATWG HTML, section 9.2)."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        event.cursor.encode(),
        event.type.encode(),
        event.json,
    )


def _chunk_counts(type: str, facts: _Expansion) -> tuple[tuple[str, int], tuple[str, int]]:
    if type == "document.added":
        return ("chunk.deleted", 0), ("chunk.added", facts.num_chunks)
    if type == "document.deleted":
        return ("chunk.deleted", facts.num_chunks), ("chunk.added", 0)
    if facts.chunks_kept or type == "document.embedded":
        return ("chunk.deleted", 0), ("chunk.added", 0)
    return ("chunk.deleted", facts.previous_num_chunks), ("chunk.added", facts.num_chunks)


def _event(
    cursor: str,
    type: str,
    change: Change,
    data: bytes,
    format: Format,
    documents: Mapping[tuple[str | None, str | None], bytes] | None,
) -> Event:
    library = b'"%b"' % change.library_id.encode() if change.library_id else b"null"
    document = b""
    if documents is not None and change.type.startswith("document."):
        document = b',"document":' + documents.get((change.library_id, change.subject), b"null")
    at = _timestamp(change.at_us).encode()
    if format == "json":
        json = b'{"id":"%b","type":"%b","library_id":%b,"timestamp":"%b","data":%b%b}' % (
            cursor.encode(),
            type.encode(),
            library,
            at,
            data,
            document,
        )
    else:
        # CloudEvents 1.0, JSON format; `data` gains the document when it was asked for.
        source = "/v1/libraries/" + (change.library_id or "")
        json = (
            b'{"specversion":"1.0","id":"%b","source":%b,"type":"headwater.%b","time":"%b",'
            b'"subject":%b,"datacontenttype":"application/json","data":%b}'
        ) % (
            cursor.encode(),
            _encode(source),
            type.encode(),
            at,
            _encode(change.subject or change.library_id or ""),
            data[:-1] + document + b"}" if document else data,
        )
    return Event(cursor, type, json)
