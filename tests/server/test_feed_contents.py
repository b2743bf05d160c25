"""What an event of the feed says, in each of its forms."""

from __future__ import annotations

from server.client import Client


def test_chunk_events_are_told_only_to_those_who_name_them(client: Client, library: str) -> None:
    client.put(library, "a", {"texts": ["one", "two"]})
    for types in ({}, {"types": "*"}):
        kinds = [event["type"] for event in client.all_events(library_id=library, **types)]
        assert kinds == ["library.created", "document.added"]


def test_include_document_joins_the_latest_state(client: Client, library: str) -> None:
    client.put(library, "kept", {"text": "old"})
    client.put(library, "kept", {"text": "new", "title": "Second"})
    client.put(library, "gone", {"text": "soon gone"})
    client.delete(library, "gone")
    with client.events(
        library=library, after="beginning", include="document", types="document.*"
    ) as events:
        told = events.take(4)
    now = client.get(library, "kept")
    assert [event["type"].split(".")[1] for event in told] == [
        "added",
        "updated",
        "added",
        "deleted",
    ]
    assert [event["document"] for event in told] == [now, now, None, None]
    assert told == client.all_events(library_id=library, include="document", types="document.*")


def test_cloudevents_have_what_their_specification_asks_for(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "hello", "title": "T"})
    plain = client.all_events(library_id=library)
    clouds = client.all_events(library_id=library, format="cloudevents")
    with client.events(library=library, after="beginning", format="cloudevents") as events:
        assert events.take(2) == clouds
    assert clouds[1] == {
        "specversion": "1.0",
        "id": plain[1]["id"],
        "source": f"/v1/libraries/{library}",
        "type": "headwater.document.added",
        "time": plain[1]["timestamp"],
        "subject": "a",
        "datacontenttype": "application/json",
        "data": plain[1]["data"],
    }


def test_added_event_tells_what_the_contract_says(client: Client, library: str) -> None:
    document = {"id": "a", "title": "T", "text": "hello", "metadata": {"year": 2026}}
    summary = client.stream(library, [document])[-1]
    (event,) = client.all_events(library_id=library, types="document.added")
    assert set(event) == {"id", "type", "library_id", "timestamp", "data"}
    assert event["library_id"] == library
    data = event["data"]
    assert (data["document_id"], data["title"], data["num_chunks"]) == ("a", "T", 1)
    assert (data["version"], data["metadata"]) == (1, {"year": 2026})
    assert data["batch_id"] == summary["batch_id"]
