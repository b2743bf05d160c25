"""The feed over real sockets: each change once, in order, however often the reader is cut off."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from server.client import CONTROL, Client, Json, Sent, ndjson
from server.running import Server, eventually

DOCUMENTS = 10_000
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose heartbeats and progress come quickly."""
    data = tmp_path_factory.mktemp("brisk") / "data"
    with Server(data, feeds__heartbeat=0.2, feeds__progress=0.3) as server:
        yield server


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


def test_ready_comes_first_and_nothing_after_its_cursor_is_missed(
    client: Client, library: str
) -> None:
    with client.events() as events:
        ready = next(events)
        assert (ready.event, ready.id) == ("ready", None)
        assert ready.retry_ms is not None
        written = client.put(library, "a", {"text": "hello"})
        sent = next(events)
        assert (sent.event, sent.id) == ("document.added", written["cursor"])


def test_quiet_stream_carries_heartbeats(brisk: Server) -> None:
    with Client(brisk.url) as client, client.events(comments=True) as events:
        assert next(events).event == "ready"
        assert [next(events).event for _ in range(3)] == [":", ":", ":"]
        library = client.create_library()["id"]
        assert next(e for e in events if e.event != ":").data["library_id"] == library


def test_progress_advances_a_reader_to_whom_nothing_matches(brisk: Server) -> None:
    with Client(brisk.url) as client:
        library = client.create_library()["id"]
        with client.events(types="library.deleted") as events:
            start = next(events).data["cursor"]
            written = client.put(library, "a", {"text": "not asked for"})
            progress = events.until("progress")
            assert progress.id == progress.data["cursor"] == written["cursor"] != start
            last_id = events.last_id
        other = client.put(library, "b", {"text": "not asked for either"})
        with client.events(types="library.deleted", last_id=last_id) as events:
            assert events.until("progress").id == other["cursor"]
            gone = client.http.delete(f"/v1/libraries/{library}").json()
            assert events.until("library.deleted").id == gone["cursor"]


def test_reader_older_than_the_log_is_reset_and_can_begin_again(serve: Serve) -> None:
    server = serve(log__retention_changes=1000, log__trim_every=0.2)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=2)["id"]
        (first,) = client.all_events()
        documents = ({"id": f"d{n}", "chunks": [{"vector": [1, n]}]} for n in range(3000))
        summary = client.stream(library, documents, response="summary")[-1]
        head = int(summary["cursor"].split(".")[1])

        def trimmed() -> bool:
            """To the end: it goes in steps, and each moves what is the earliest."""
            return head - int(client.statistics()["earliest"].split(".")[1]) <= 1000

        eventually(trimmed, "the log to be trimmed")
        with client.events(last_id=first["id"]) as events:
            reset = next(events)
            assert reset.event == "reset"
            assert reset.data["code"] == "cursor_expired"
            assert next(events, None) is None
        gone = client.http.get("/v1/events", params={"after": first["id"]})
        assert gone.status_code == 410
        assert gone.json()["code"] == "cursor_expired"
        for earliest in (reset.data["earliest"], gone.json()["earliest"], "beginning"):
            kept = client.all_events(after=earliest)
            # No more than the setting keeps, and all of that: nothing between is missing.
            positions = [int(event["id"].split(".")[1]) for event in kept]
            assert positions == list(range(positions[0], head + 1))
            assert len(kept) <= 1000


def test_stream_open_while_the_log_is_trimmed_past_it_goes_on_at_the_head(serve: Serve) -> None:
    server = serve(log__retention_changes=1000, log__trim_every=0.1)
    with Client(server.url) as client:
        library = client.create_library(embedder="none", dimension=2)["id"]
        with client.events(types="document.added", filter='{"pick":1}') as events:
            for begin in range(0, 6000, 1000):
                documents = (
                    {"id": f"d{n}", "chunks": [{"vector": [1, n]}], "metadata": {"pick": n % 1000}}
                    for n in range(begin, begin + 1000)
                )
                client.stream(library, documents, response="summary")
            heard = [event["data"]["document_id"] for event in events.take(6)]
        assert heard == [f"d{n}" for n in range(1, 6000, 1000)]


def test_streams_are_told_goodbye_when_the_server_stops(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        library = client.create_library()["id"]
        with client.events(after="beginning") as events:
            events.until("library.created")
            took = server.stop()
            goodbye = next(events)
            assert goodbye.event == "goodbye"
            assert goodbye.data["cursor"] == events.last_id
            assert goodbye.data["reason"] == "stopping"
            assert goodbye.retry_ms is not None
            assert next(events, None) is None
            assert took < 5
        server.start()
        with client.events(last_id=goodbye.data["cursor"]) as events:
            written = client.put(library, "a", {"text": "after the restart"})
            assert events.take(1)[0]["id"] == written["cursor"]


def test_stream_of_maximum_age_ends_with_goodbye_and_loses_nothing(serve: Serve) -> None:
    server = serve(feeds__max_age=0.2)
    enough = threading.Event()
    with Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        library = client.create_library()["id"]

        def write() -> list[str]:
            with Client(server.url) as writer:
                written: list[str] = []
                while not enough.is_set():
                    number = len(written)
                    answer = writer.put(library, f"d{number}", {"text": f"text {number}"})
                    written.append(answer["id"])
            return written

        writing = pool.submit(write)
        heard: list[str] = []
        rounds, after = 0, "beginning"
        try:
            while not writing.done() or len(heard) < len(writing.result()):
                with client.events(types="document.*", after=after) as events:
                    assert next(events).event == "ready"
                    for sent in events:
                        after = sent.data.get("cursor") or sent.data["id"]
                        if sent.event == "goodbye":
                            assert sent.data["reason"] == "max_age"
                        else:
                            heard.append(sent.data["data"]["document_id"])
                    assert sent.event == "goodbye"
                rounds += 1
                if rounds == 4:
                    enough.set()
        finally:
            enough.set()
        assert writing.result() == heard


def test_long_poll_returns_as_soon_as_something_matches(client: Client, library: str) -> None:
    now = client.page(library_id=library)["cursor"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.page, library_id=library, after=now, wait=20)
        eventually(lambda: client.statistics()["running"], "the server to answer meanwhile")
        written = client.put(library, "a", {"text": "hello"})
        page = waiting.result(10)
    assert [event["id"] for event in page["events"]] == [written["cursor"]]
    assert page["cursor"] == written["cursor"]


def test_long_poll_that_hears_nothing_comes_back_empty_with_a_cursor_to_go_on(
    client: Client, library: str
) -> None:
    other = client.create_library()["id"]
    now = client.page(library_id=library)["cursor"]
    written = client.put(other, "a", {"text": "elsewhere"})
    page = client.page(library_id=library, after=now, wait=0.2)
    assert page["events"] == []
    assert int(page["cursor"].split(".")[1]) >= int(written["cursor"].split(".")[1])


def test_paged_reader_may_name_beginning_and_now(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "hello"})
    assert len(client.page(library_id=library, after="beginning")["events"]) == 2
    page = client.page(library_id=library, after="now")
    assert page["events"] == []
    assert page["cursor"] == client.statistics()["head"]


def test_cursor_of_another_log_is_expired_and_never_misread(client: Client) -> None:
    foreign = "zzzzzz123456.3"
    with client.events(last_id=foreign) as events:
        reset = next(events)
        assert (reset.event, reset.data["code"]) == ("reset", "cursor_expired")
        assert next(events, None) is None
    problem = client.http.get("/v1/events", params={"after": foreign})
    assert (problem.status_code, problem.json()["code"]) == (410, "cursor_expired")
    assert problem.json()["earliest"] == client.statistics()["earliest"]


@pytest.mark.parametrize("text", ["garbage", "k3f9q2", "k3f9q2.-1", "k3f9q2.1e5", "a.b", " "])
def test_what_is_no_cursor_is_refused(client: Client, text: str) -> None:
    for path in ("/v1/events", "/v1/events/stream"):
        problem = client.http.get(path, params={"after": text})
        assert (problem.status_code, problem.json()["code"]) == (400, "invalid_cursor")


def test_cursor_beyond_the_head_is_of_another_history(client: Client, library: str) -> None:
    log_id, position = client.statistics()["head"].split(".")
    beyond = f"{log_id}.{int(position) + 2}"
    refused = client.http.get("/v1/events", params={"after": beyond})
    assert refused.status_code == 410
    assert (refused.json()["code"], refused.json()["reason"]) == ("cursor_expired", "ahead")
    with client.events(after=beyond) as events:
        assert next(events).event == "reset"


def test_statistics_count_what_was_published_delivered_and_waits(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        before = client.statistics()
        assert before["running"] is True
        assert (before["subscriber_count"], before["total_errors"]) == (0, 0)
        with client.events(after="now") as one, client.events(after="now") as two:
            next(one), next(two)
            library = client.create_library()["id"]
            client.stream(library, ({"text": f"document {n}"} for n in range(50)))
            one.take(53), two.take(53)
            now = client.statistics()
            assert now["subscriber_count"] == 2
            assert now["total_published"] - before["total_published"] == 53
            assert now["total_delivered"] - before["total_delivered"] == 106
            assert now["pending_events"] == 0
            assert now["published_per_second"] > 0
            assert now["delivered_per_second"] > 0
            assert now["head"] == one.last_id
        eventually(lambda: client.statistics()["subscriber_count"] == 0, "both to be gone")


def test_unknown_type_and_library_are_refused_before_the_stream_opens(client: Client) -> None:
    cases: list[tuple[Json, str]] = [
        ({"types": "document.exploded"}, "invalid_query"),
        ({"filter": "[1]"}, "invalid_filter"),
        ({"library_id": "no such library"}, "library_not_found"),
        ({"include": "everything"}, "invalid_query"),
    ]
    for params, code in cases:
        with pytest.raises(httpx.HTTPStatusError) as refused, client.events(**params):
            pass
        assert refused.value.response.json()["code"] == code


def test_reader_that_vanishes_harms_nobody(client: Client, library: str) -> None:
    with client.events(library=library) as steady:
        next(steady)
        for number in range(20):
            with suppress(httpx.HTTPError), client.events(library=library) as brief:
                next(brief)
                client.put(library, f"d{number}", {"text": f"text {number}"})
        heard = [event["data"]["document_id"] for event in steady.take(20)]
    assert heard == [f"d{number}" for number in range(20)]
