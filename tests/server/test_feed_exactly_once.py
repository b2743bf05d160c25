"""The feed over real sockets: each change once, in order, however often the reader is cut off."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from server.client import CONTROL, Client, Json, Sent, ndjson
from server.running import Server, eventually

DOCUMENTS = 10_000


def hear(
    client: Client,
    seed: int,
    last: Callable[[Json], bool],
    *,
    mean: int = 700,
    connected: Callable[[], object] = lambda: None,
    **wish: Any,
) -> list[Sent]:
    """Listen until `last`, dropping the connection at random and resuming by the last id."""
    dice = random.Random(seed)
    told: list[Sent] = []
    last_id: str | None = None
    while True:
        with client.events(last_id=last_id, **wish) as events:
            first = next(events)
            assert first.event == "ready"
            connected()
            last_id = last_id or first.data["cursor"]
            for _ in range(dice.randrange(2 * mean)):
                sent = next(events)
                last_id = sent.id or last_id
                if sent.event in CONTROL:
                    assert sent.event == "progress"
                    continue
                assert sent.id == sent.data["id"]
                told.append(sent)
                if last(sent.data):
                    return told


def is_completed(event: Json) -> bool:
    return bool(event["type"] == "batch.completed")


def test_readers_before_during_and_after_a_stream_hear_each_document_once(
    shared: Server, client: Client, library: str
) -> None:
    ids = [f"doc-{number}" for number in range(DOCUMENTS)]
    start = client.statistics()["head"]

    def body(when_half: Callable[[], object]) -> Iterator[bytes]:
        for begin in range(0, DOCUMENTS, 200):
            if begin == DOCUMENTS // 2:
                when_half()
            yield ndjson({"id": id, "text": f"text of {id}"} for id in ids[begin : begin + 200])

    with ThreadPoolExecutor(5) as pool, Client(shared.url) as sender:
        ready: list[int] = []
        heard: list[Future[list[Sent]]] = [
            pool.submit(
                hear,
                client,
                seed,
                is_completed,
                connected=lambda: ready.append(1),
                library_id=library,
                after="now",
            )
            for seed in (1, 2)
        ]
        eventually(lambda: len(ready) >= 2, "both readers to be connected")

        def join() -> None:
            heard.append(
                pool.submit(hear, client, 3, is_completed, library_id=library, after=start)
            )

        summary = sender.stream_raw(library, body(join), response="summary")[-1]
        assert summary["created"] == DOCUMENTS
        heard.append(pool.submit(hear, client, 4, is_completed, library_id=library, after=start))
        stories = [future.result(120) for future in heard]

    for story in stories:
        kinds = [sent.event for sent in story]
        assert kinds == ["batch.started"] + ["document.added"] * DOCUMENTS + ["batch.completed"]
        assert [sent.data["data"]["document_id"] for sent in story[1:-1]] == ids
        positions = [int(str(sent.id).split(".")[1]) for sent in story]
        assert positions == sorted(set(positions))
        assert {s.data["data"]["batch_id"] for s in story} == {summary["batch_id"]}
    assert stories[0] == stories[1] == stories[2] == stories[3]


@pytest.fixture(scope="module")
def told(session_server: Server) -> tuple[str, str, list[Json]]:
    """Two libraries with a mixed history, and every event of both."""
    with Client(session_server.url) as client:
        one, two = (client.create_library()["id"] for _ in range(2))
        for number in range(60):
            for library in (one, two):
                metadata = {"lang": "en" if number % 3 else "de", "tags": ["a", f"t{number % 5}"]}
                client.put(library, f"d{number}", {"text": f"first {number}", "metadata": metadata})
            if number % 4 == 0:
                client.put(
                    one, f"d{number}", {"text": f"again {number}", "metadata": {"lang": "fr"}}
                )
            if number % 6 == 0:
                client.delete(two, f"d{number}")
        everything = client.all_events(library_id=[one, two])
        assert len(everything) == 2 + 120 + 15 + 10
    return one, two, everything


def metadata_of(event: Json) -> Json:
    return event["data"].get("metadata") or {} if event["type"].startswith("document.") else {}


@pytest.mark.parametrize(
    ("wish", "wanted"),
    [
        ({}, lambda event: True),
        ({"types": "document.deleted"}, lambda event: event["type"] == "document.deleted"),
        (
            {"types": "library.*,document.updated"},
            lambda event: event["type"] in ("library.created", "document.updated"),
        ),
        ({"filter": '{"lang":"de"}'}, lambda event: metadata_of(event).get("lang") == "de"),
        ({"filter": '{"tags":"t3"}'}, lambda event: "t3" in metadata_of(event).get("tags", [])),
        (
            {"filter": '{"tags":"t3","lang":"en"}', "types": "document.added"},
            lambda event: (
                event["type"] == "document.added"
                and "t3" in metadata_of(event).get("tags", [])
                and metadata_of(event).get("lang") == "en"
            ),
        ),
    ],
)
@pytest.mark.parametrize("libraries", ["one", "both"])
def test_filtered_reader_that_is_cut_off_hears_exactly_what_it_asked_for(
    client: Client,
    told: tuple[str, str, list[Json]],
    wish: Json,
    wanted: Callable[[Json], bool],
    libraries: str,
) -> None:
    one, two, everything = told
    chosen = [one] if libraries == "one" else [one, two]
    expected = [e for e in everything if e["library_id"] in chosen and wanted(e)]
    assert expected or (libraries == "one" and wish == {"types": "document.deleted"})
    if not expected:
        return
    story = hear(
        client,
        7,
        lambda event: bool(event["id"] == expected[-1]["id"]),
        mean=6,
        library_id=chosen,
        after="beginning",
        **wish,
    )
    assert [sent.data for sent in story] == expected


def test_deletes_carry_their_metadata_so_that_filtered_readers_hear_them(
    client: Client, told: tuple[str, str, list[Json]]
) -> None:
    _, two, _ = told
    found = client.all_events(library_id=two, types="document.deleted", filter='{"lang":"de"}')
    assert [e["data"]["document_id"] for e in found] == [f"d{n}" for n in range(0, 60, 6)]


def test_library_route_tells_the_same_as_the_library_parameter(
    client: Client, told: tuple[str, str, list[Json]]
) -> None:
    one, _, everything = told
    expected = [event for event in everything if event["library_id"] == one]
    with client.events(library=one, after="beginning") as events:
        assert events.take(len(expected)) == expected


def test_pages_tell_the_same_as_the_stream(
    client: Client, told: tuple[str, str, list[Json]]
) -> None:
    one, two, everything = told
    for limit in (1, 7, 1000):
        assert client.all_events(library_id=[one, two], limit=limit) == everything
    with client.events(library_id=[one, two], after="beginning") as events:
        assert events.take(len(everything)) == everything


def test_any_event_id_is_a_place_to_go_on_from(
    client: Client, told: tuple[str, str, list[Json]]
) -> None:
    one, two, everything = told
    for place in range(0, len(everything) - 3, 11):
        after = everything[place]["id"]
        page = client.page(library_id=[one, two], after=after, limit=1000)
        assert page["events"][:3] == everything[place + 1 : place + 4]
        with client.events(library_id=[one, two], last_id=after, after="beginning") as events:
            assert events.take(3) == everything[place + 1 : place + 4]


@pytest.mark.parametrize("types", ["chunk.*", "document.*,chunk.*", "chunk.deleted", "chunk.added"])
@pytest.mark.parametrize("form", ["json", "cloudevents"])
def test_reader_of_chunks_resumes_inside_one_change(
    client: Client, library: str, types: str, form: str
) -> None:
    client.put(library, "a", {"texts": ["one", "two", "three", "four", "five"]})
    client.put(library, "b", {"texts": ["six"]})
    client.put(library, "a", {"texts": ["seven", "eight", "nine"]})
    client.http.patch(f"/v1/libraries/{library}/documents/a", json={"title": "kept chunks"})
    client.delete(library, "a")
    expected = [
        ("document.added", "a"),
        *[("chunk.added", f"a#{n}") for n in range(5)],
        ("document.added", "b"),
        ("chunk.added", "b#0"),
        ("document.updated", "a"),
        *[("chunk.deleted", f"a#{n}") for n in range(5)],
        *[("chunk.added", f"a#{n}") for n in range(3)],
        ("document.updated", "a"),
        ("document.deleted", "a"),
        *[("chunk.deleted", f"a#{n}") for n in range(3)],
    ]
    asked = types.split(",")
    expected = [(k, s) for k, s in expected if k in asked or f"{k.split('.')[0]}.*" in asked]
    for step in (1, 2, 3):
        heard: list[tuple[str, str]] = []
        last_id = None
        while len(heard) < len(expected):
            with client.events(
                library=library, types=types, format=form, after="beginning", last_id=last_id
            ) as events:
                for event in events.take(min(step, len(expected) - len(heard))):
                    data = event["data"]
                    kind = event["type"].removeprefix("headwater.")
                    heard.append((kind, data.get("chunk_id") or data["document_id"]))
                last_id = events.last_id
        assert heard == expected
    paged = client.all_events(library_id=library, types=types, format=form, limit=1)
    assert [event["type"].removeprefix("headwater.") for event in paged] == [k for k, _ in expected]
