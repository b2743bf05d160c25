"""People in one session, over real WebSockets: what they see, keep and are told at its end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from server.client import Client, Json, answer
from server.guest import Guest, turned_away
from server.running import Server, eventually

Serve = Callable[..., Server]

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}
NORTH = [1.0, 0.0]


@pytest.fixture
def notes(client: Client) -> str:
    """A library with three documents at growing angles to `NORTH`; its name."""
    name: str = client.create_library(**TWO_D)["name"]
    for number, id in enumerate("abc"):
        put(client, name, id, [1.0, number / 10])
    return name


def put(client: Client, library: str, id: str, vector: list[float]) -> Json:
    return client.put(library, id, {"title": id.upper(), "chunks": [{"vector": vector}]})


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session that no other test has."""
    return f"{request.node.name[:100]}"


def figures(client: Client) -> Json:
    found: Json = answer(client.http.get("/v1/websockets/statistics"))["sessions"]
    return found


def test_two_people_see_each_other_and_the_same_results(
    client: Client, notes: str, name: str
) -> None:
    with Guest(client.url, name, "Ann", notes, colour="#c0392b") as ann:
        assert ann.names == ["Ann"]
        with Guest(client.url, name, "Bob") as bob:
            ann.sees("Ann", "Bob")
            assert bob.people == ann.people
            assert bob.people[ann.person_id]["colour"] == "#c0392b"
            bob.ask(vector=NORTH, k=2)
            ann.finds("a", "b")
            put(client, notes, "d", [1.0, 0.01])
            for person in (ann, bob):
                person.finds("a", "d")
            client.delete(notes, "a")
            for person in (ann, bob):
                person.finds("d", "b")
            assert ann.results == bob.results
            assert ann.query["author"]["name"] == "Bob"
        ann.sees("Ann")


@pytest.mark.parametrize("odd", ["50%41", "a%2Fb", "a+b", "who?#1", "岸"])
def test_a_session_has_the_name_it_was_joined_by(client: Client, notes: str, odd: str) -> None:
    with Guest(client.url, odd, "Ann", notes) as ann:
        assert ann.welcome["session"]["name"] == odd
        shown = answer(client.http.get(f"/v1/sessions/{quote(odd, safe='')}"))
        assert shown["session"]["name"] == odd


def test_whoever_comes_later_gets_the_whole_state_first(
    client: Client, notes: str, name: str
) -> None:
    with Guest(client.url, name, "Ann", notes) as ann:
        ann.ask(vector=NORTH, k=3, filter={"year": {"$exists": False}})
        pin = ann.do("pin", chunk_id="b#0", text="this one")
        note = ann.do("note", document_id="c", text="not this one")
        put(client, notes, "d", [1.0, 0.01])
        ann.finds("a", "d", "b")
        with Guest(client.url, name, "Bob") as bob:
            assert [frame["type"] for frame in bob.frames] == ["system", "state"]
            assert bob.found == ["a", "d", "b"]
            assert bob.results is not None
            assert [hit["rank"] for hit in bob.results] == [1, 2, 3]
            ann.sees("Ann", "Bob")
            assert (bob.query, bob.people, bob.pins, bob.notes) == (
                ann.query,
                ann.people,
                ann.pins,
                ann.notes,
            )
            assert bob.pins == {pin["pin_id"]: pin}
            assert bob.notes == {note["note_id"]: note}


def test_a_session_whose_query_fails_is_shown_with_why(client: Client, name: str) -> None:
    library = client.create_library(**TWO_D)["name"]
    client.put(library, "a", {"chunks": [{"text": "the sea", "vector": NORTH}]})
    with Guest(client.url, name, "Ann", library) as ann:
        ann.ask(vector=NORTH, k=2)
        path = f"/v1/sessions/{quote(name, safe='')}"
        shown = answer(client.http.get(path, params={"include": "results"}))
        assert (len(shown["results"]["hits"]), shown["failure"]) == (1, None)
        anew = {"library": library, "embedder": "static"}
        answer(client.http.post("/v1/jobs/regenerate-embeddings", json=anew))

        def failed() -> bool:
            shown = answer(client.http.get(path, params={"include": "results"}))
            assert shown["query"]["revision"] == 1
            return shown["results"] is None and shown["failure"]["code"] == "dimension_mismatch"

        eventually(failed, "the vector to be of another length than the library's")
        assert [person["name"] for person in answer(client.http.get(path))["people"]] == ["Ann"]


def test_a_stale_edit_is_refused_with_the_current_state(
    client: Client, notes: str, name: str
) -> None:
    with Guest(client.url, name, "Ann", notes) as ann, Guest(client.url, name, "Bob") as bob:
        edited = ann.do("revise", base_revision=0, query={"vector": NORTH, "k": 1})
        assert edited["revision"] == 1
        refused = bob.refused("revise", base_revision=0, query={"vector": [0.0, 1.0]})
        assert (refused["code"], refused["status"]) == ("stale_revision", 409)
        current = refused["current"]
        assert (current["revision"], current["author"]["name"]) == (1, "Ann")
        assert current["query"] == {"k": 1, "vector_dimension": 2}
        bob.do("revise", base_revision=1, query={"vector": [0.0, 1.0], "k": 3})
        for person in (ann, bob):
            person.finds("c", "b", "a")
        note = ann.do("note", document_id="a", text="one")
        bob.until(lambda: bob.notes)
        bob.do("edit_note", note_id=note["note_id"], base_revision=1, text="two")
        stale = ann.refused("remove_note", note_id=note["note_id"], base_revision=1)
        assert (stale["code"], stale["current"]["text"]) == ("stale_revision", "two")


def test_pins_notes_and_query_are_there_after_a_restart(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        put(client, "notes", "a", NORTH)
        with Guest(server.url, "tides", "Ann", "notes") as ann:
            ann.ask(vector=NORTH)
            ann.do("pin", document_id="a")
            note = ann.do("note", chunk_id="a#0", text="kept")
            ann.do("edit_note", note_id=note["note_id"], base_revision=1, text="kept well")
            ann.until(lambda: ann.notes[note["note_id"]]["revision"] == 2)
            server.stop()
            code, last = ann.closed()
            assert (code, last["event"], last["reason"]) == (1001, "goodbye", "stopping")
        server.start()
        with Guest(server.url, "tides", "Bob") as bob:
            bob.sees("Bob")
            assert (bob.pins, bob.notes, bob.query) == (ann.pins, ann.notes, ann.query)
            bob.finds("a")
        left = client.all_events(types="session.left")
        assert [event["data"]["reason"] for event in left][:1] == ["stopping"]


def test_after_a_kill_nobody_of_before_is_left(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        with Guest(server.url, "tides", "Ann", "notes") as ann:
            server.kill()
        server.start()
        with Guest(server.url, "tides", "Bob") as bob:
            bob.sees("Bob")
        left = client.all_events(types="session.left")
        assert left[0]["data"]["person"]["person_id"] == ann.person_id
        assert left[0]["data"]["reason"] == "lost"


def test_a_connection_that_is_cut_has_left_at_once(client: Client, notes: str, name: str) -> None:
    with Guest(client.url, name, "Ann", notes) as ann:
        bob = Guest(client.url, name, "Bob")
        ann.sees("Ann", "Bob")
        bob.cut()
        ann.sees("Ann")
        assert ann.frames[-1]["event"]["data"]["reason"] == "left"


def test_a_machine_that_is_gone_without_a_word_has_left_within_seconds(serve: Serve) -> None:
    server = serve(sessions__ping_every=0.2, sessions__ping_timeout=0.4)
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        with Guest(server.url, "tides", "Ann", "notes") as ann:
            bob = Guest(server.url, "tides", "Bob")
            ann.sees("Ann", "Bob")
            bob.fall_silent()
            ann.sees("Ann")
            assert ann.names == ["Ann"]


def test_results_follow_every_write_exactly(client: Client, notes: str, name: str) -> None:
    chance = random.Random(7)
    with Guest(client.url, name, "Ann", notes) as ann, Guest(client.url, name, "Bob") as bob:
        ann.ask(vector=NORTH, k=5)
        for number in range(120):
            id = f"d{chance.randrange(20)}"
            if chance.random() < 0.3:
                client.http.delete(f"/v1/libraries/{notes}/documents/{id}")
            else:
                put(client, notes, id, [1.0, chance.uniform(-1, 1)])
            if number == 60:
                bob.until(lambda: bob.query["revision"] == 1)
                bob.ask(vector=[0.0, 1.0], k=7)
        exact = client.search(notes, vector=[0.0, 1.0], k=7, exact=True)["results"]
        for person in (ann, bob):
            person.finds(*[hit["document_id"] for hit in exact])
        with Guest(client.url, name, "Cid") as cid:
            assert cid.found == bob.found


def test_messages_reach_the_others_only(client: Client, notes: str, name: str) -> None:
    with (
        Guest(client.url, name, "Ann", notes) as ann,
        Guest(client.url, name, "Bob") as bob,
        Guest(client.url, name, "Cid") as cid,
    ):
        for number in range(10):
            ann.say({"x": number, "selection": ["a#0"]})
        for person in (bob, cid):
            assert [data["x"] for data in person.hears(10)] == list(range(10))
            assert {message["person_id"] for message in person.messages} == {ann.person_id}
        ann.do("ping")
        assert ann.messages == []
        kept = client.all_events(types="session.*", after=ann.welcome["cursor"])
        assert {event["type"] for event in kept} == {"session.joined"}


def test_pins_are_on_hits_and_on_documents(client: Client, notes: str, name: str) -> None:
    with Guest(client.url, name, "Ann", notes) as ann, Guest(client.url, name, "Bob") as bob:
        pin = ann.do("pin", chunk_id="a#0")
        assert (pin["document_id"], pin["title"], pin["text"]) == ("a", "A", None)
        assert bob.do("pin", chunk_id="a#0") == pin, "once is enough"
        edited = bob.do("edit_pin", pin_id=pin["pin_id"], base_revision=1, text="ours")
        assert (edited["revision"], edited["author"]["name"]) == (2, "Ann")
        ann.until(lambda: ann.pins.get(pin["pin_id"]) == edited)
        ann.do("unpin", pin_id=pin["pin_id"], base_revision=2)
        bob.until(lambda: not bob.pins)
        for wrong, code in (
            ({"chunk_id": "nobody#0"}, "document_not_found"),
            ({"chunk_id": "a#7"}, "document_not_found"),
            ({"chunk_id": "a"}, "invalid_session"),
            ({"document_id": "a", "chunk_id": "a#0"}, "invalid_session"),
            ({}, "invalid_session"),
            ({"document_id": "a", "text": "\0"}, "invalid_session"),
            ({"document_id": "a", "where": 1}, "unknown_field"),
            ({"document_id": 7}, "invalid_session"),
        ):
            assert ann.refused("pin", **wrong)["code"] == code, wrong
        client.delete(notes, "a")
        assert ann.refused("note", document_id="a", text="gone")["code"] == "document_not_found"


def test_the_same_client_takes_its_own_place(client: Client, notes: str, name: str) -> None:
    old = Guest(client.url, name, "Ann", notes, client_id="laptop")
    with Guest(client.url, name, "Ann", client_id="laptop") as new:
        new.sees("Ann")
        assert list(new.people) == [new.person_id]
        code, last = old.closed()
        assert (code, last["error"]["code"]) == (4409, "replaced")
        assert "laptop" not in str(new.frames)


def test_a_deleted_session_puts_everybody_out(client: Client, notes: str, name: str) -> None:
    people = [Guest(client.url, name, person, notes) for person in ("Ann", "Bob")]
    gone = answer(client.http.delete(f"/v1/sessions/{name}"))
    assert gone["id"] == people[0].welcome["session"]["session_id"]
    for person in people:
        code, last = person.closed()
        assert (code, last["type"], last["error"]["code"]) == (4410, "error", "session_not_found")
    assert client.http.delete(f"/v1/sessions/{name}").json()["code"] == "session_not_found"
    with Guest(client.url, name, "Ann", notes) as ann:
        assert ann.welcome["session"]["session_id"] != gone["id"]


def test_sessions_end_with_their_library(client: Client, notes: str, name: str) -> None:
    people = [Guest(client.url, name, person, notes) for person in ("Ann", "Bob")]
    people[0].ask(vector=NORTH)
    client.http.delete(f"/v1/libraries/{notes}")
    for person in people:
        code, last = person.closed()
        assert (code, last["error"]["code"]) == (4410, "library_not_found")
    assert client.http.get(f"/v1/sessions/{name}").status_code == 404
    eventually(lambda: figures(client)["people"] == 0, "all to be gone")


def test_who_may_not_join_is_told_why(client: Client, notes: str, name: str) -> None:
    other = client.create_library(**TWO_D)["name"]
    with Guest(client.url, name, "Ann", notes):
        for asked, code, error in (
            ({"display_name": "Bob", "library": other}, 4409, "session_elsewhere"),
            ({"display_name": "Bob", "library": "nowhere"}, 4404, "library_not_found"),
            ({"library": notes}, 1008, "invalid_session"),
            ({"display_name": " ", "library": notes}, 1008, "invalid_session"),
            ({"display_name": "Bob", "colour": "x" * 30}, 1008, "invalid_session"),
        ):
            closed, frame = turned_away(client.url, name, **asked)
            assert (closed, frame["error"]["code"]) == (code, error), asked
    closed, frame = turned_away(client.url, name + " 2", display_name="Bob")
    assert (closed, frame["error"]["code"]) == (4404, "session_not_found")
    assert client.http.get("/v1/sessions", params={"library": notes}).json()["next"] is None


def test_sessions_are_listed_page_by_page(client: Client, notes: str, name: str) -> None:
    names = [f"{name} {number}" for number in range(3)]
    opened = [Guest(client.url, each, "Ann", notes) for each in names]
    second = Guest(client.url, names[1], "Bob")
    opened[1].ask(vector=NORTH)
    opened[1].do("pin", document_id="a")

    def pages() -> Iterator[Json]:
        after: dict[str, str] = {}
        while True:
            asked = {"library": notes, "limit": "2", **after}
            page = answer(client.http.get("/v1/sessions", params=asked))
            yield from page["sessions"]
            if page["next"] is None:
                return
            after = {"after": page["next"]}

    listed = list(pages())
    assert [session["name"] for session in listed] == names
    assert [session["people"] for session in listed] == [1, 2, 1]
    assert (listed[1]["revision"], listed[1]["pins"], listed[1]["library"]) == (1, 1, notes)
    whole = answer(client.http.get(f"/v1/sessions/{names[1]}", params={"include": "results"}))
    assert whole["session"] == listed[1]
    assert whole["query"]["query"] == {"vector": NORTH}
    assert [person["name"] for person in whole["people"]] == ["Ann", "Bob"]
    assert [hit["document_id"] for hit in whole["results"]["hits"]] == opened[1].found
    by_id = answer(client.http.get(f"/v1/sessions/{listed[1]['session_id']}"))
    assert by_id["pins"] == whole["pins"]
    for guest in [*opened, second]:
        guest.close()
    eventually(lambda: sum(s["people"] for s in pages()) == 0, "everybody to have left")
    left = answer(client.http.get(f"/v1/sessions/{names[1]}", params={"include": "results"}))
    assert left["results"]["hits"] == whole["results"]["hits"], "also when nobody is there any more"


def test_every_feed_hears_what_happens_in_a_session(client: Client, notes: str, name: str) -> None:
    with client.events(library=notes, types="session.*") as events:
        next(events)
        with Guest(client.url, name, "Ann", notes) as ann:
            ann.do("revise", base_revision=0, query={"vector": NORTH})
            pin = ann.do("pin", document_id="a")
            ann.do("unpin", pin_id=pin["pin_id"], base_revision=1)
            note = ann.do("note", document_id="a", text="x")
            ann.do("remove_note", note_id=note["note_id"], base_revision=1)
            told = [ann.event() for _ in range(5)]
        client.http.delete(f"/v1/sessions/{name}")
        heard = events.take(9)
    assert [event["type"].partition(".")[2] for event in heard] == [
        "created",
        "joined",
        "updated",
        "pinned",
        "unpinned",
        "noted",
        "note_removed",
        "left",
        "deleted",
    ]
    assert {event["data"]["session"] for event in heard} == {name}
    assert told == heard[2:7], "the same everywhere"


def test_abrupt_ends_at_every_step_leave_nothing(serve: Serve) -> None:
    server = serve()
    with Client(server.url) as client:
        client.create_library("notes", **TWO_D)
        put(client, "notes", "a", NORTH)
        for turn in range(4):
            guests = [Guest(server.url, f"room {turn % 2}", f"p{n}", "notes") for n in range(6)]
            guests[0].ask(vector=NORTH)
            for number, guest in enumerate(guests):
                if number % 3 == 1:
                    guest.send("note", document_id="a", text="last words")
                if number % 3 == 2:
                    guest.send("revise", base_revision=0, query={"vector": NORTH})
                guest.cut()

            def nobody() -> bool:
                sockets = answer(client.http.get("/v1/websockets/statistics"))
                live = answer(client.http.get("/v1/live/statistics"))
                inside = answer(client.http.get("/v1/sessions"))["sessions"]
                return (
                    sockets["sessions"]["people"] == sockets["sessions"]["open"] == 0
                    and live["standing_queries"] == 0
                    and all(session["people"] == 0 for session in inside)
                )

            eventually(nobody, "everything to be given back", said=server.said)
        server.stop()
        assert "crashed" not in server.said(200_000)
