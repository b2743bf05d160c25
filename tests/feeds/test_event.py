"""Changes as events: their JSON, their expansion into chunks, cursors inside a change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.feeds import Selection, parse_types
from headwater.feeds.event import Format, events, sse
from headwater.model import Change, Cursor

LOG = "k3f9q2"
ALL = Selection(told=parse_types("*,chunk.*"))


def change(type: str, position: int = 7, subject: str | None = "d", **data: Any) -> Change:
    facts = {"document_id": "d", "version": 2, **data} if type.startswith("document.") else data
    return Change(position, 1_700_000_000_000_000, type, "lib", subject, json.dumps(facts).encode())


def told(
    change: Change, types: str = "*,chunk.*", skip: int = 0
) -> list[tuple[str, str, int | None]]:
    """(type, cursor, ordinal) of each event."""
    found = events(change, Selection(told=parse_types(types)), LOG, skip=skip)
    return [
        (event.type, event.cursor, json.loads(event.json)["data"].get("ordinal")) for event in found
    ]


def test_an_event_has_the_five_fields() -> None:
    (event,) = events(change("document.added", title="T", num_chunks=1), Selection(), LOG)
    assert json.loads(event.json) == {
        "id": "k3f9q2.7",
        "type": "document.added",
        "library_id": "lib",
        "timestamp": "2023-11-14T22:13:20.000000Z",
        "data": {"document_id": "d", "version": 2, "title": "T", "num_chunks": 1},
    }
    assert event.cursor == "k3f9q2.7"


def test_a_frame_carries_cursor_type_and_event() -> None:
    (event,) = events(change("batch.started", batch_id="b"), Selection(), LOG)
    assert sse(event) == b"id: k3f9q2.7\nevent: batch.started\ndata: " + event.json + b"\n\n"
    assert b"\n" not in event.json


def test_an_added_document_tells_its_chunks_after_itself() -> None:
    assert told(change("document.added", num_chunks=2)) == [
        ("document.added", "k3f9q2.6.1", None),
        ("chunk.added", "k3f9q2.6.2", 0),
        ("chunk.added", "k3f9q2.7", 1),
    ]


def test_an_update_tells_old_chunks_gone_then_new_ones() -> None:
    updated = change("document.updated", num_chunks=1, previous_num_chunks=2, batch_id="b")
    assert told(updated) == [
        ("document.updated", "k3f9q2.6.1", None),
        ("chunk.deleted", "k3f9q2.6.2", 0),
        ("chunk.deleted", "k3f9q2.6.3", 1),
        ("chunk.added", "k3f9q2.7", 0),
    ]
    chunk = json.loads(events(updated, ALL, LOG)[1].json)["data"]
    assert chunk == {
        "chunk_id": "d#0",
        "document_id": "d",
        "ordinal": 0,
        "version": 2,
        "batch_id": "b",
    }


def test_an_update_that_kept_its_chunks_tells_of_none() -> None:
    kept = change("document.updated", num_chunks=3, chunks_kept=True)
    assert told(kept) == [("document.updated", "k3f9q2.7", None)]
    assert told(kept, "chunk.*") == []


def test_a_deleted_document_tells_its_chunks_gone() -> None:
    assert told(change("document.deleted", num_chunks=1)) == [
        ("document.deleted", "k3f9q2.6.1", None),
        ("chunk.deleted", "k3f9q2.7", 0),
    ]


def test_chunk_events_alone_end_on_the_changes_own_cursor() -> None:
    updated = change("document.updated", num_chunks=1, previous_num_chunks=2)
    assert told(updated, "chunk.added") == [("chunk.added", "k3f9q2.7", 0)]
    assert told(updated, "chunk.deleted") == [
        ("chunk.deleted", "k3f9q2.6.2", 0),
        ("chunk.deleted", "k3f9q2.7", 1),
    ]


def test_types_without_chunks_are_not_expanded() -> None:
    assert told(change("document.added", num_chunks=2), "document.*") == [
        ("document.added", "k3f9q2.7", None)
    ]
    assert told(change("batch.started"), "batch.*,chunk.*") == [("batch.started", "k3f9q2.7", None)]


@pytest.mark.parametrize(
    "types", ["*,chunk.*", "chunk.*", "chunk.added", "document.*,chunk.deleted"]
)
@pytest.mark.parametrize(
    "subject",
    [
        change("document.added", num_chunks=4),
        change("document.updated", num_chunks=2, previous_num_chunks=3),
        change("document.deleted", num_chunks=3),
    ],
)
def test_resuming_at_any_cursor_inside_a_change_gives_just_the_rest(
    types: str, subject: Change
) -> None:
    whole = told(subject, types)
    for place, (_, text, _) in enumerate(whole):
        cursor = Cursor.parse(text, log_id=LOG)
        if place == len(whole) - 1:
            assert (cursor.position, cursor.part) == (subject.position, 0)
        else:
            assert cursor.position == subject.position - 1
            assert told(subject, types, skip=cursor.part) == whole[place + 1 :]


def test_a_document_joined_in_stands_on_the_document_event_alone() -> None:
    added = change("document.added", num_chunks=1)
    documents: dict[tuple[str | None, str | None], bytes] = {
        ("lib", "d"): b'{"id":"d","text":"now"}'
    }
    first, second = events(added, ALL, LOG, documents=documents)
    assert json.loads(first.json)["document"] == {"id": "d", "text": "now"}
    assert "document" not in json.loads(second.json)
    (gone,) = events(added, Selection(), LOG, documents={})
    assert json.loads(gone.json)["document"] is None
    (other,) = events(change("batch.started"), Selection(), LOG, documents={})
    assert "document" not in json.loads(other.json)


def test_cloudevents() -> None:
    added = change("document.added", num_chunks=1)
    (event,) = events(added, Selection(), LOG, "cloudevents")
    assert json.loads(event.json) == {
        "specversion": "1.0",
        "id": "k3f9q2.7",
        "source": "/v1/libraries/lib",
        "type": "headwater.document.added",
        "time": "2023-11-14T22:13:20.000000Z",
        "subject": "d",
        "datacontenttype": "application/json",
        "data": {"document_id": "d", "version": 2, "num_chunks": 1},
    }
    (joined,) = events(added, Selection(), LOG, "cloudevents", {("lib", "d"): b'{"id":"d"}'})
    assert json.loads(joined.json)["data"]["document"] == {"id": "d"}
    (of_library,) = events(change("library.created", subject=None), Selection(), LOG, "cloudevents")
    assert json.loads(of_library.json)["subject"] == "lib"
    assert json.loads(of_library.json)["data"] == {}


@pytest.mark.parametrize("id", ['quo"te', "new\nline", "sla/sh", "ünï 😀", "back\\slash"])
def test_odd_ids_stay_one_line_of_valid_json(id: str) -> None:
    odd = Change(
        7, 0, "document.added", "lib", id, json.dumps({"document_id": id, "num_chunks": 1}).encode()
    )
    formats: tuple[Format, ...] = ("json", "cloudevents")
    for format in formats:
        for event in events(odd, ALL, LOG, format):
            assert b"\n" not in event.json
            assert json.loads(event.json)["data"]["document_id"] == id
