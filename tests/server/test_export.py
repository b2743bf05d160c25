"""The export: one moment of a library, resumable, and on with the changes from just there."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server.client import Client, Json, answer
from server.conversation import Conversation

STAMPS = ("created_at", "updated_at", "cursor")


def at(library: str) -> str:
    return f"/v1/libraries/{library}/documents/stream"


def fill(client: Client, library: str, count: int, first: int = 0) -> None:
    documents = [{"id": f"d{n}", "text": f"text {n}"} for n in range(first, first + count)]
    assert client.stream(library, documents, response="summary")[-1]["created"] == count


def apply(state: dict[str, Json], records: list[Json]) -> dict[str, Json]:
    """What somebody holds who applies the records in order."""
    for record in records:
        if record["type"] == "document":
            state[record["id"]] = record
        elif record["type"] == "deleted":
            state.pop(record["id"], None)
    return state


def through_checkpoint(records: list[Json], number: int) -> tuple[list[Json], str]:
    """The records up to the checkpoint of that number, and its token."""
    places = [place for place, record in enumerate(records) if record["type"] == "checkpoint"]
    place = places[number]
    return records[: place + 1], records[place]["after"]


# ── One moment ──────────────────────────────────────────────────────────────────────────────────


def test_documents_come_whole_in_order_of_insertion(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=2)["id"]
    sent: list[dict[str, Any]] = [
        {"id": "t", "title": "T", "texts": ["a"], "metadata": {"x": 1}, "tags": ["y"]},
        {"id": "c", "chunks": [{"text": "a", "vector": [1, 2], "metadata": {"p": 1}}]},
        {"id": "v", "chunks": [{"vector": [3, 4]}, {"vector": [5, 6]}]},
    ]
    sent[0] = {
        "id": "t",
        "title": "T",
        "chunks": [{"text": "a", "vector": [0, 1]}],
        "metadata": {"x": 1},
        "tags": ["y"],
    }
    client.stream(library, sent)
    records = client.export(library)
    assert [record["type"] for record in records] == ["document"] * 3 + ["checkpoint", "summary"]
    for record in records[:3]:
        got = answer(client.http.get(f"/v1/libraries/{library}/documents/{record['id']}"))
        assert record == {"type": "document", **got}
    assert records[3]["documents"] == records[4]["documents"] == 3
    assert set(records[4]) == {"type", "documents", "cursor", "took_ms"}
    assert [record["id"] for record in records[:3]] == ["t", "c", "v"]


def test_chunks_and_vectors_come_when_asked_for(client: Client, library: str) -> None:
    client.put(library, "a", {"texts": ["the sea", "the moon"]})
    client.put(library, "b", {"text": "plain"})
    plain, chunks, vectors = (
        client.documents(library, **params)
        for params in ({}, {"include": "chunks"}, {"include": "chunks,vectors"})
    )
    assert all("chunks" not in document for document in plain.values())
    assert [chunk["id"] for chunk in chunks["a"]["chunks"]] == ["a#0", "a#1"]
    assert "vector" not in chunks["a"]["chunks"][0]
    assert all(len(chunk["vector"]) == 256 for chunk in vectors["a"]["chunks"])
    assert vectors["b"]["text"] == "plain"
    response = client.http.get(at(library), params={"include": "everything"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_query")


def test_an_export_can_be_streamed_into_another_library(client: Client, library: str) -> None:
    documents: list[dict[str, Any]] = [
        {"id": "a", "title": "t", "text": "The sea.", "metadata": {"n": 1}, "author": "Ada"},
        {"id": "b/c", "texts": ["one", "two"]},
        {"id": "d", "chunks": [{"text": "x", "metadata": {"p": 1}}]},
    ]
    client.stream(library, documents)
    copy = client.create_library()["id"]
    kept = {"id", "title", "text", "texts", "chunks", "metadata"}
    again = []
    for record in client.documents(library).values():
        document = {key: value for key, value in record.items() if key in kept}
        for chunk in document.get("chunks", []):
            del chunk["id"], chunk["ordinal"]
        again.append(document)
    assert client.stream(copy, again)[-1]["created"] == 3
    originals, copies = (client.documents(which, include="vectors") for which in (library, copy))
    for id, original in originals.items():
        for stamp in STAMPS:
            del original[stamp], copies[id][stamp]
    assert copies == originals
    # And back into the first it changes nothing.
    assert client.stream(library, again)[-1]["unchanged"] == 3


def test_an_empty_library_is_a_summary_of_zero(client: Client, library: str) -> None:
    records = client.export(library)
    assert [record["type"] for record in records if record["type"] != "checkpoint"] == ["summary"]
    assert records[-1]["documents"] == 0
    assert records[-1]["cursor"]


def test_a_checkpoint_follows_each_thousand(client: Client, library: str) -> None:
    fill(client, library, 2_500)
    records = client.export(library)
    checkpoints = [record["documents"] for record in records if record["type"] == "checkpoint"]
    assert checkpoints == [1_000, 2_000, 2_500]
    assert [r["id"] for r in records if r["type"] == "document"] == [f"d{n}" for n in range(2_500)]


def test_the_summarys_cursor_is_that_moment(client: Client, library: str) -> None:
    fill(client, library, 10)
    summary = client.export(library)[-1]
    assert client.page(after=summary["cursor"], library_id=library)["events"] == []
    client.put(library, "later", {"text": "x"})
    (event,) = client.page(after=summary["cursor"], library_id=library)["events"]
    assert event["data"]["document_id"] == "later"


def test_writes_do_not_reach_an_export_that_has_begun(client: Client, library: str) -> None:
    fill(client, library, 3_000)
    with Conversation(client.url, "GET", at(library), receive_buffer=4_096) as talk:
        first = json.loads(talk.read_line() or b"")
        assert first["id"] == "d0"
        with Client(client.url) as writer:
            writer.put(library, "d2999", {"text": "changed meanwhile"})
            writer.delete(library, "d2998")
            writer.put(library, "d3000", {"text": "added meanwhile"})
        records = [first, *talk.records()]
    texts = {record["id"]: record["text"] for record in records if record["type"] == "document"}
    assert texts == {f"d{n}": f"text {n}" for n in range(3_000)}


# ── Resuming ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_resumed_export_ends_in_the_new_moment(client: Client, library: str, cut: int) -> None:
    fill(client, library, 2_500)
    held, after = through_checkpoint(client.export(library), cut)
    rng = random.Random(cut)
    numbers = rng.sample(range(2_500), 300)
    changed, deleted, replaced = numbers[:100], numbers[100:200], numbers[200:]
    client.stream(library, [{"id": f"d{n}", "text": f"changed {n}"} for n in changed])
    for n in deleted + replaced:
        client.delete(library, f"d{n}")
    client.stream(library, [{"id": f"d{n}", "text": f"again {n}"} for n in replaced])
    fill(client, library, 50, first=2_500)

    state = apply({}, held)
    resumed = client.export(library, after=after)
    apply(state, resumed)
    fresh = apply({}, client.export(library))
    assert state == fresh
    assert len(fresh) == 2_500 - 100 + 50
    # Not everything again: what is unchanged before the checkpoint is not sent.
    sent = {record["id"] for record in resumed if record["type"] == "document"}
    before = {record["id"] for record in held if record["type"] == "document"}
    touched = {f"d{n}" for n in numbers}
    assert sent & before <= touched
    # Nothing twice.
    assert len(sent) == len([record for record in resumed if record["type"] == "document"])


def test_an_export_cut_again_and_again_ends_in_the_last_moment(
    client: Client, library: str
) -> None:
    fill(client, library, 3_500)
    state: dict[str, Json] = {}
    after: str | None = None
    rng = random.Random(7)
    for round_ in range(12):
        records = client.export(library, **({"after": after} if after else {}))
        checkpoints = [r for r in records if r["type"] == "checkpoint"]
        if len(checkpoints) > 1:
            # Cut after the first checkpoint, or a little later: the rest is lost.
            kept, after = through_checkpoint(records, 0)
            apply(state, kept + records[len(kept) : len(kept) + rng.randint(0, 400)])
        else:
            apply(state, records)
            after = checkpoints[-1]["after"]
        if round_ < 10:
            numbers = rng.sample(range(3_500), 40)
            client.stream(library, [{"id": f"d{n}", "text": f"r{round_}"} for n in numbers[:20]])
            for n in numbers[20:]:
                if client.get(library, f"d{n}") is not None:
                    client.delete(library, f"d{n}")
    assert state == apply({}, client.export(library))


def test_a_finished_export_is_the_start_of_an_incremental_one(client: Client, library: str) -> None:
    fill(client, library, 100)
    records = client.export(library)
    state = apply({}, records)
    tokens = [through_checkpoint(records, -1)[1]]
    for change in range(3):
        client.put(library, f"d{change}", {"text": f"changed {change}"})
        client.delete(library, f"d{50 + change}")
        more = client.export(library, after=tokens[-1])
        kinds = [record["type"] for record in more]
        # Only what is new since the last run, and a checkpoint to go on from.
        assert kinds == ["deleted", "document", "checkpoint", "summary"]
        assert more[1]["id"] == f"d{change}"
        apply(state, more)
        tokens.append(through_checkpoint(more, -1)[1])
    assert state == apply({}, client.export(library))


def token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_wrong_checkpoint_is_refused(client: Client, library: str) -> None:
    fill(client, library, 1)
    after = through_checkpoint(client.export(library), 0)[1]
    cursor, _, row = base64.urlsafe_b64decode(after + "==").decode().partition("~")
    wrong = [
        "x",
        "a" * 1_000,
        "%%%",
        "é",
        "beginning",
        cursor,
        token("nonsense"),
        token(cursor),
        token(f"{cursor}~"),
        token(f"{cursor}~x"),
        token(f"{cursor}~-1"),
        token(f"{cursor}~{1 << 63}"),
        token(f"{cursor}~{'9' * 5_000}"),
        token(f"{cursor.split('.')[0]}.{1 << 63}~{row}"),
        after[:-2],
    ]
    for text in wrong:
        response = client.http.get(at(library), params={"after": text})
        assert response.status_code in (400, 200), (text, response.text)
        if response.status_code == 400:
            assert response.json()["code"] == "invalid_cursor", text
        else:
            assert text == after[:-2]  # a shorter row number may be one
    assert client.http.get(at(library), params={"after": ""}).status_code in (400, 422)


def test_a_checkpoint_of_another_log_has_expired(client: Client, library: str) -> None:
    response = client.http.get(at(library), params={"after": token("aaaaaaaaaaaa.5~1")})
    assert (response.status_code, response.json()["code"]) == (410, "cursor_expired")
    assert response.json()["reason"] == "other_log"
    assert response.json()["earliest"]


# ── Following ───────────────────────────────────────────────────────────────────────────────────


class Follower:
    """An export that follows, applied as it comes."""

    def __init__(self, client: Client, library: str) -> None:
        self._talk = Conversation(client.url, "GET", f"{at(library)}?follow=true")
        self.records = self._read()
        self.state: dict[str, Json] = {}
        self.changes: list[Json] = []
        self.snapshot: list[str] = []
        self.cursor = ""

    def _read(self) -> Iterator[Json]:
        while (line := self._talk.read_line()) is not None:
            yield json.loads(line)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._talk.close()

    def to_summary(self) -> None:
        for record in self.records:
            if record["type"] == "document":
                self.snapshot.append(record["id"])
                self.state[record["id"]] = record
            if record["type"] == "summary":
                self.cursor = record["cursor"]
                return

    def until(self, id: str) -> None:
        """Apply changes up to the one that adds `id`."""
        for record in self.records:
            if record["type"] == "heartbeat":
                continue
            assert record["type"] == "change", record
            event = record["event"]
            self.changes.append(event)
            if event["type"] == "document.deleted":
                self.state.pop(event["data"]["document_id"])
            else:
                self.state[event["data"]["document_id"]] = event["document"]
            if event["data"]["document_id"] == id:
                return


def test_following_has_no_gap_and_no_overlap_while_writes_go_on(
    client: Client, library: str
) -> None:
    fill(client, library, 2_000)
    stop = threading.Event()

    def write() -> None:
        rng = random.Random(3)
        with Client(client.url) as writer:
            number = 0
            while not stop.is_set():
                writer.stream(
                    library,
                    [{"id": f"new-{number}-{part}", "text": "x"} for part in range(20)],
                    response="summary",
                )
                writer.put(library, f"d{rng.randrange(2_000)}", {"text": f"again {number}"})
                writer.put(library, f"gone-{number}", {"text": "x"})
                writer.delete(library, f"gone-{number}")
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        followers = []
        for _ in range(3):
            follower = Follower(client, library)
            followers.append(follower)
            follower.to_summary()
    finally:
        stop.set()
        thread.join()
    client.put(library, "the last", {"text": "x"})
    # Every change of the log after the snapshot's cursor, each once, in order, and none before.
    for follower in followers:
        with follower:
            follower.until("the last")
            assert len(set(follower.snapshot)) == len(follower.snapshot) >= 2_000
            log = client.all_events(library_id=library, types="document.*", after=follower.cursor)
            assert [change["id"] for change in follower.changes] == [e["id"] for e in log]
            now = client.documents(library)
            assert {id: document["text"] for id, document in follower.state.items()} == {
                id: document["text"] for id, document in now.items()
            }


def test_a_follower_hears_each_document_as_it_is(client: Client, library: str) -> None:
    with Follower(client, library) as follower:
        follower.to_summary()
        client.put(library, "a", {"text": "one", "title": "t"})
        record = next(follower.records)
        assert record["type"] == "change"
        assert record["event"]["type"] == "document.added"
        document = record["event"]["document"]
        assert (document["id"], document["text"], document["title"]) == ("a", "one", "t")
        client.delete(library, "a")
        record = next(follower.records)
        assert record["event"]["type"] == "document.deleted"
        assert record["event"]["document"] is None
        # Other libraries are not heard; this one's end is.
        client.put(client.create_library()["id"], "b", {"text": "x"})
        answer(client.http.delete(f"/v1/libraries/{library}"))
        record = next(follower.records)
        assert record["event"]["type"] == "library.deleted"
