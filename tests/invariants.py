"""The promises of the design, as checks on a running server and on its data folder.

Called at the end of tests that crash, drop, race or trim; each function names its promise. They
only read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.client import Client, Json

from headwater.doctor import examine
from headwater.settings import SearchSettings, Settings

LARGEST_K = 10_000


def acknowledged_is_there(client: Client, library: str, ids: Collection[str]) -> None:
    """1. What was acknowledged as durable is there."""
    missing = set(ids) - client.documents(library).keys()
    assert not missing, f"{len(missing)} acknowledged documents are gone: {sorted(missing)[:5]}"


def events_rise(events: Collection[Json]) -> None:
    """2. A reader past a position never later meets something before it, or it again."""
    positions = [position(event["id"]) for event in events]
    assert positions == sorted(set(positions))


def log_tells_what_is_there(client: Client, library: str) -> None:
    """4. Every event describes a change that is there; every change there has its event.

    The whole log must still be there. Replaying it gives the documents, with their versions.
    """
    versions: dict[str, int] = {}
    cursors: dict[str, str] = {}
    events = client.all_events(library_id=library, types="document.*")
    events_rise(events)
    for event in events:
        data = event["data"]
        id = data["document_id"]
        if event["type"] == "document.added":
            assert id not in versions, f"{id} was added twice"
        else:
            assert id in versions, f"{id} was never added"
        if event["type"] == "document.deleted":
            del versions[id], cursors[id]
        else:
            versions[id], cursors[id] = data["version"], event["id"]
    documents = client.documents(library)
    assert versions == {id: document["version"] for id, document in documents.items()}
    assert cursors == {id: document["cursor"] for id, document in documents.items()}


def every_document_is_found(client: Client, library: str, probe: Mapping[str, object]) -> None:
    """3. The view has what the store has: a search for everything finds every document, once."""
    answer = client.http.post(
        f"/v1/libraries/{library}/search", json={**probe, "k": LARGEST_K, "exact": True}
    ).json()
    chunks = [hit["chunk_id"] for hit in answer["results"]]
    assert len(chunks) == len(set(chunks))
    documents = client.documents(library)
    stored = {
        f"{id}#{n}" for id, document in documents.items() for n in range(document["num_chunks"])
    }
    assert len(stored) < LARGEST_K, "too many chunks for one search to find"
    assert set(chunks) == stored


def batches_are_ended(client: Client) -> None:
    """4. Every batch that was started has been completed or has failed, once."""
    started: dict[str, str] = {}
    ended: dict[str, str] = {}
    for event in client.all_events(types="batch.*"):
        batch = event["data"]["batch_id"]
        into = started if event["type"] == "batch.started" else ended
        assert batch not in into, f"batch {batch}: {event['type']} after {into[batch]}"
        into[batch] = event["type"]
    assert started.keys() == ended.keys()


def live_shows_what_is_there(
    client: Client, library: str, hits: Sequence[Json], query: Mapping[str, Any]
) -> None:
    """5. A live query that has told everything shows what an exact search finds, texts included."""
    asked = {"k": 1_000, **query, "exact": True, "mode": "vector"}
    found = client.http.post(f"/v1/libraries/{library}/search", json=asked).json()
    assert list(hits) == found["results"]


def folder_is_sound(data: Path, search: SearchSettings | None = None) -> None:
    """3 and 4, from inside: what `headwater doctor` looks at. Best with no server running."""
    settings = Settings(data=data, search=search or SearchSettings())
    wrong = [finding for finding in examine(settings) if not finding.ok]
    assert not wrong, wrong


def position(cursor: str) -> tuple[int, int]:
    """What a test may know of a cursor and no client should: its position, and part of it."""
    _, position, *part = cursor.split(".")
    return int(position), int(part[0]) if part else 0
