"""One session whose people are on different server processes, and what is left when one dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from server.client import Client
from server.guest import Guest
from server.running import Server, eventually

Serve = Callable[..., Server]

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}
NORTH = [1.0, 0.0]


def ends(server: Server) -> set[str]:
    """The processes that hear messages: a worker is one from when it serves."""
    return {end.name for end in (server.data / "bus").iterdir()}


def process_id(server: Server, name: str) -> int:
    """The worker that is alive under `name` in the data folder."""
    mark = str(server.data / "processes" / name)
    for worker in server.workers():
        if mark in [file.path for file in worker.open_files()]:
            return int(worker.pid)
    raise AssertionError(f"no worker holds {mark}")


def until_all(people: Iterable[Guest], true: Callable[[Guest], bool]) -> None:
    """Wait until it is true for each of them."""
    for person in people:
        person.until(partial(true, person))


@pytest.fixture
def two_workers(serve: Serve) -> Iterator[tuple[Server, list[Guest]]]:
    """A server with two workers, and people in a session, some on each; they are there."""
    server = serve(workers=2)
    eventually(lambda: len(ends(server)) == 2, "both workers", said=server.said)
    with Client(server.url) as client, ExitStack() as stack:
        client.create_library("notes", **TWO_D)
        for number, id in enumerate("abc"):
            client.put("notes", id, {"chunks": [{"vector": [1, number / 10]}]})
        people: list[Guest] = []
        while len(people) < 4 or len({person.process for person in people}) < 2:
            assert len(people) < 40, "the kernel gives all connections to one worker"
            name = f"p{len(people)}"
            people.append(stack.enter_context(Guest(server.url, "tides", name, "notes")))
        for person in people:
            person.sees(*[f"p{number}" for number in range(len(people))])
        yield server, people


def test_people_on_two_workers_share_everything(two_workers: tuple[Server, list[Guest]]) -> None:
    server, people = two_workers
    first = people[0]
    other = next(person for person in people if person.process != first.process)
    first.ask(vector=NORTH, k=2)
    for person in people:
        person.finds("a", "b")
    with Client(server.url) as client:
        client.put("notes", "d", {"chunks": [{"vector": [1, 0.01]}]})
    for person in people:
        person.finds("a", "d")
    note = other.do("note", document_id="d", text="from the other side")
    first.until(lambda: note["note_id"] in first.notes)
    stale = first.refused("revise", base_revision=0, query={"vector": NORTH})
    assert stale["current"]["revision"] == 1
    other.until(lambda: other.query["revision"] == 1)
    other.do("revise", base_revision=1, query=None)
    until_all(people, lambda person: person.query["revision"] == 2)
    for person in people:
        assert person.people == first.people
    for sender in (first, other):
        for person in people:
            person.messages.clear()
        sender.say({"x": 1})
        for person in people:
            if person is not sender:
                assert person.hears() == [{"x": 1}]
    left = next(person for person in people if person not in (first, other))
    left.cut()
    rest = [person for person in people if person is not left]
    until_all(rest, lambda person: len(person.people) == len(rest))


def test_the_people_of_a_killed_worker_have_left_within_seconds(
    two_workers: tuple[Server, list[Guest]],
) -> None:
    server, people = two_workers
    survivor = people[0]
    dead = next(person.process for person in people if person.process != survivor.process)
    os.kill(process_id(server, dead), signal.SIGKILL)
    alive = [person for person in people if person.process != dead]
    alive_ids = {person.person_id for person in alive}
    until_all(alive, lambda person: person.people.keys() == alive_ids)
    reasons = {
        frame["event"]["data"]["reason"]
        for frame in survivor.frames
        if frame["type"] == "event" and frame["event"]["type"] == "session.left"
    }
    assert reasons == {"lost"}
    survivor.ask(vector=NORTH, k=1)
    assert survivor.process in ends(server)
    eventually(
        lambda: dead not in ends(server), "the dead worker's socket to be swept", said=server.said
    )


def test_a_worker_that_hangs_loses_its_people_and_they_are_told(
    tmp_path: Path, serve: Serve
) -> None:
    keeper = serve(sessions__lease=1.0)
    other = serve(sessions__lease=1.0)
    with Client(keeper.url) as client:
        client.create_library("notes", **TWO_D)
    with Guest(keeper.url, "tides", "Ann", "notes") as ann:
        bob = Guest(other.url, "tides", "Bob")
        ann.sees("Ann", "Bob")
        other.process.send_signal(signal.SIGSTOP)
        ann.sees("Ann")
        other.process.send_signal(signal.SIGCONT)
        code, last = bob.closed()
        assert (code, last["error"]["code"]) == (1013, "presence_lost")
        with Guest(other.url, "tides", "Bob"):
            ann.sees("Ann", "Bob")


def test_a_message_to_a_process_that_is_gone_harms_nobody(serve: Serve) -> None:
    one, two = serve(), serve(sessions__lease=60)
    with Client(one.url) as client:
        client.create_library("notes", **TWO_D)
    with (
        Guest(one.url, "tides", "Ann", "notes") as ann,
        Guest(one.url, "tides", "Amy") as amy,
    ):
        Guest(two.url, "tides", "Bob")
        ann.sees("Ann", "Amy", "Bob")
        two.process.send_signal(signal.SIGSTOP)
        for number in range(20):
            ann.say({"number": number, "pad": "x" * 3_000})
        assert len(amy.hears(20)) == 20
        two.kill()
        ann.say("after")
        assert amy.hears(21)[-1] == "after"
        ann.sees("Ann", "Amy")


def test_workers_leave_no_socket_behind(serve: Serve) -> None:
    server = serve(workers=2)
    eventually(lambda: len(ends(server)) == 2, "both workers", said=server.said)
    server.stop()
    assert ends(server) == set()
