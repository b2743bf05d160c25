"""Sessions without sockets: several processes of one folder, each with rooms of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from service.session_view import SessionView
from service.whole import Scarce, put, running
from store.session_contract import join

from headwater.app import Parts
from headwater.clock import SystemClock
from headwater.errors import (
    DimensionMismatch,
    HeadwaterError,
    InvalidFilter,
    InvalidQuery,
    InvalidSession,
    LibraryNotFound,
    MessageTooLarge,
    Overloaded,
    PresenceLost,
    Replaced,
    SessionNotFound,
    StaleRevision,
)
from headwater.model import Library
from headwater.service.live import LiveQuery
from headwater.service.sessions import Newcomer, Stay
from headwater.settings import SessionSettings, Settings
from headwater.store import DataFolder
from headwater.store.base import Command
from headwater.store.session_commands import LeaveSession

pytestmark = pytest.mark.anyio

TWO_D: dict[str, Any] = {"embedder": "none", "dimension": 2}


class Person(SessionView):
    """Somebody in a session, who reads what comes until something is as it should be."""

    def __init__(self, parts: Parts, stay: Stay) -> None:
        super().__init__()
        self.parts = parts
        self.stay = stay

    def read(self) -> None:
        rooms, stay = self.parts.rooms, self.stay
        for frame in stay.seat.mailbox.take(lambda: rooms.state(stay.room), 1 << 20):
            self.apply(json.loads(frame))

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(20):
            self.read()
            while not condition():
                await self.stay.seat.mailbox.wait()
                self.read()

    async def sees(self, *names: str) -> None:
        await self.until(lambda: self.names == list(names))

    async def finds(self, *documents: str) -> None:
        await self.until(lambda: self.found == list(documents))

    async def is_on(self, library: str) -> None:
        await self.until(lambda: self.library == library)

    async def hears(self, count: int) -> list[dict[str, Any]]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def notes_are(self, count: int) -> None:
        await self.until(lambda: len(self.notes) == count)

    async def put_out(self) -> HeadwaterError:
        """Why the stay has ended, once it has."""
        await self.until(lambda: self.stay.seat.ended)
        assert self.stay.seat.ended is not None
        return self.stay.seat.ended

    async def ask(self, **query: Any) -> None:
        """Ask something, and have its results."""
        revision = self.query["revision"]
        await self.parts.sessions.revise(self.stay, revision, LiveQuery(**query))
        await self.until(lambda: self.results_revision == revision + 1)


@asynccontextmanager
async def joined(
    parts: Parts, name: str, *, session: str = "tides", library: str | None = "notes", **who: Any
) -> AsyncIterator[Person]:
    stay = await parts.sessions.join(session, library, Newcomer(name, **who))
    try:
        person = Person(parts, stay)
        person.read()
        yield person
    finally:
        await parts.sessions.leave(stay, "left")


@asynccontextmanager
async def processes(folder: Path, count: int, **sessions: Any) -> AsyncIterator[list[Parts]]:
    """As many processes on one folder, and a library `notes` with three documents."""
    settings = Settings(data=folder, sessions=SessionSettings(**sessions))
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(running(settings)) for _ in range(count)]
        library = await made[0].libraries.create("notes", **TWO_D)
        for number, id in enumerate("abc"):
            await put(made[0], library, id, [(id, (1.0, number / 10))])
        yield made


async def library_of(parts: Parts) -> Library:
    return await parts.libraries.get("notes")


async def test_whoever_comes_later_has_the_whole_state_first(tmp_path: Path) -> None:
    async with processes(tmp_path, 1) as (parts,), joined(parts, "Ann", colour="#fa0") as ann:
        assert [frame["type"] for frame in ann.frames] == ["state"]
        assert ann.names == ["Ann"]
        await ann.ask(vector=[1.0, 0.0], k=2)
        assert ann.found == ["a", "b"]
        await parts.sessions.place(ann.stay, "pin", "b#0", None, None)
        await parts.sessions.place(ann.stay, "note", None, "c", "look at this")
        await ann.until(lambda: ann.pins and ann.notes)
        async with joined(parts, "Bob", library=None) as bob:
            assert [frame["type"] for frame in bob.frames] == ["state"]
            await ann.sees("Ann", "Bob")
            for seen in ("people", "pins", "notes", "query", "results"):
                assert getattr(bob, seen) == getattr(ann, seen), seen
        await ann.sees("Ann")


async def test_people_of_two_processes_see_one_session(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2) as (one, two),
        joined(one, "Ann") as ann,
        joined(two, "Bob") as bob,
    ):
        await ann.sees("Ann", "Bob")
        assert bob.names == ["Ann", "Bob"]
        await bob.ask(vector=[1.0, 0.0], k=2)
        await ann.finds("a", "b")
        await put(two, await library_of(two), "d", [("d", (1.0, 0.01))])
        for person in (ann, bob):
            await person.finds("a", "d")
        note = await two.sessions.place(bob.stay, "note", "d#0", None, "new!")
        await ann.until(lambda: ann.notes)
        await one.sessions.revise_mark(ann.stay, "note", note.id, 1, "newer!")
        await bob.until(lambda: bob.notes and bob.notes[note.id]["text"] == "newer!")
        await two.sessions.remove_mark(bob.stay, "note", note.id, 2)
        await ann.until(lambda: not ann.notes)
        assert (ann.people, ann.query) == (bob.people, bob.query)


async def test_messages_reach_all_others_and_are_kept_nowhere(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2, message_bytes=64) as (one, two),
        joined(one, "Ann") as ann,
        joined(one, "Amy") as amy,
        joined(two, "Bob") as bob,
    ):
        await ann.until(lambda: len(ann.names) == 3)
        head = one.log.head
        one.sessions.pass_on(ann.stay, msgspec.Raw(b'{"x":1}'))
        for person in (amy, bob):
            (message,) = await person.hears(1)
            assert message["data"] == {"x": 1}
            assert message["person_id"] == ann.stay.seat.person_id
        two.sessions.pass_on(bob.stay, msgspec.Raw(b"[2]"))
        assert [message["data"] for message in await ann.hears(1)] == [[2]]
        assert bob.messages == [message]
        with pytest.raises(MessageTooLarge):
            one.sessions.pass_on(ann.stay, msgspec.Raw(b'"' + b"x" * 64 + b'"'))
        assert one.log.head == head
        assert one.sessions.figures()["messages_dropped"] == 0
        async with joined(two, "Cid") as late:
            assert late.messages == []


async def test_a_stale_edit_is_refused_with_what_there_is(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2) as (one, two),
        joined(one, "Ann") as ann,
        joined(two, "Bob") as bob,
    ):
        await one.sessions.revise(ann.stay, 0, LiveQuery(vector=[1.0, 0.0], k=1))
        with pytest.raises(StaleRevision) as refused:
            await two.sessions.revise(bob.stay, 0, LiveQuery(vector=[0.0, 1.0]))
        current = refused.value.fields["current"]
        assert current["revision"] == 1
        assert current["query"] == {"k": 1, "vector_dimension": 2}
        assert current["author"]["name"] == "Ann"
        await two.sessions.revise(bob.stay, current["revision"], LiveQuery(vector=[0.0, 1.0], k=3))
        for person in (ann, bob):
            await person.finds("c", "b", "a")
            assert person.results_revision == 2
        await one.sessions.revise(ann.stay, 2, None)
        await bob.until(lambda: bob.query["revision"] == 3)
        assert (bob.query["query"], bob.results) == (None, None)


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({}, InvalidQuery),
        ({"vector": [1.0, 0.0], "query": "a"}, InvalidQuery),
        ({"vector": [1.0, 0.0], "k": 101}, InvalidQuery),
        ({"vector": [1.0, 0.0], "include": ["vector"]}, InvalidQuery),
        ({"vector": [1.0]}, DimensionMismatch),
        ({"vector": [1.0, 0.0], "filter": {"$what": 1}}, InvalidFilter),
        ({"query": "words"}, HeadwaterError),
    ],
)
async def test_a_query_that_cannot_be_asked_changes_nothing(
    tmp_path: Path, query: dict[str, Any], error: type[HeadwaterError]
) -> None:
    async with processes(tmp_path, 1) as (parts,), joined(parts, "Ann") as ann:
        head = parts.log.head
        with pytest.raises(error):
            await parts.sessions.revise(ann.stay, 0, LiveQuery(**query))
        assert parts.log.head == head


@pytest.mark.parametrize(
    ("session", "who"),
    [
        ("a/b", {"name": "Ann"}),
        (" tides", {"name": "Ann"}),
        ("tides", {"name": ""}),
        ("tides", {"name": "Ann\n"}),
        ("tides", {"name": "A\u202enn"}),
        ("tides", {"name": "Ann\u2028"}),
        ("tides", {"name": "A\u2028nn"}),
        ("tides", {"name": "\u200b"}),
        ("tides", {"name": "\u200d"}),
        ("tides", {"name": "x" * 65}),
        ("tides", {"name": "Ann", "colour": "url(x)"}),
        ("tides", {"name": "Ann", "client_id": "ö"}),
    ],
)
async def test_odd_names_are_refused(tmp_path: Path, session: str, who: dict[str, Any]) -> None:
    async with processes(tmp_path, 1) as (parts,):
        with pytest.raises(InvalidSession):
            await parts.sessions.join(session, "notes", Newcomer(**who))
        assert await parts.sessions.page(0, 10, None) == []


@pytest.mark.parametrize(
    "name",
    [
        "علی\u200cرضا",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "\U0001f3f4\u200d\u2620\ufe0f",
        "\U0001fae8",
        "क्\u200dष",
    ],
)
async def test_names_are_those_of_all_the_world(tmp_path: Path, name: str) -> None:
    async with processes(tmp_path, 1) as (parts,), joined(parts, name) as person:
        assert person.names == [name]


async def test_a_renamed_library_has_its_new_name_for_all(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2) as (one, two),
        joined(one, "Ann") as ann,
        joined(two, "Bob") as bob,
    ):
        await one.libraries.create("other", **TWO_D)
        await one.libraries.update("other", name="others")
        await one.libraries.update("notes", name="shore")
        for person in (ann, bob):
            await person.is_on("shore")
        async with joined(two, "Cid", library="shore") as cid:
            assert cid.library == "shore"
            await ann.sees("Ann", "Bob", "Cid")


async def test_a_client_that_comes_again_takes_its_own_place(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2) as (one, two),
        joined(one, "Ann", client_id="laptop") as old,
        joined(two, "Ann", client_id="laptop") as new,
    ):
        assert isinstance(await old.put_out(), Replaced)
        assert new.names == ["Ann"]
        assert list(new.people) == [new.stay.seat.person_id]


async def test_a_deleted_session_puts_everybody_out(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2) as (one, two),
        joined(one, "Ann") as ann,
        joined(two, "Bob") as bob,
    ):
        await one.sessions.delete("tides")
        assert isinstance(await ann.put_out(), SessionNotFound)
        assert isinstance(await bob.put_out(), SessionNotFound)
        with pytest.raises(SessionNotFound):
            await two.sessions.revise(bob.stay, 0, LiveQuery(vector=[1.0, 0.0]))
        async with joined(two, "Bob") as again:
            assert again.names == ["Bob"]
            assert again.stay.session.id != bob.stay.session.id


async def test_sessions_end_with_their_library(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 2) as (one, two),
        joined(one, "Ann") as ann,
        joined(two, "Bob") as bob,
    ):
        await ann.ask(vector=[1.0, 0.0])
        await two.libraries.delete("notes")
        assert isinstance(await ann.put_out(), LibraryNotFound)
        assert isinstance(await bob.put_out(), LibraryNotFound)
        assert await one.sessions.page(0, 10, None) == []


async def test_somebody_put_out_by_silence_hears_of_it(tmp_path: Path) -> None:
    async with processes(tmp_path, 1) as (parts,), joined(parts, "Ann") as ann:
        await parts.log.store.write(LeaveSession(ann.stay.seat.person_id, "lost"))
        assert isinstance(await ann.put_out(), PresenceLost)


async def test_people_of_a_process_that_ended_are_taken_out(tmp_path: Path) -> None:
    async with processes(tmp_path, 1, reap_every=0.05) as (keeper,), joined(keeper, "Ann") as ann:
        async with running(Settings(data=tmp_path)) as other:
            stay = await other.sessions.join("tides", None, Newcomer("Bob"))
            await ann.sees("Ann", "Bob")
            assert stay.session.people == 2
        await ann.sees("Ann")
        (left,) = [f for f in ann.frames if f.get("event", {}).get("type") == "session.left"]
        assert left["event"]["data"]["reason"] == "lost"


async def test_people_of_a_silent_process_are_taken_out(tmp_path: Path) -> None:
    async with processes(tmp_path, 1, reap_every=0.05) as (parts,), joined(parts, "Ann") as ann:
        silent = DataFolder(tmp_path)
        silent.enter("silent")
        lease_us = SystemClock().now_us() + 200_000
        command = join(None, "Bob", process="silent", lease_us=lease_us)
        await parts.log.store.write(command)
        await ann.sees("Ann", "Bob")
        await ann.sees("Ann")
        assert "silent" in parts.folder.alive()
        silent.release()


async def test_a_process_without_files_to_spare_goes_on_looking_for_the_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open sockets are no reason to end them all."""
    async with processes(tmp_path, 1, reap_every=0.05) as (parts,), joined(parts, "Ann") as ann:
        scarce = Scarce(parts.folder.alive)
        monkeypatch.setattr(parts.folder, "alive", scarce)
        await parts.log.store.write(join(None, "Bob", process="ended", lease_us=1 << 60))
        await ann.sees("Ann", "Bob")
        await ann.sees("Ann")
        assert not scarce.left


async def test_a_leaving_that_the_store_did_not_take_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(tmp_path, 1, lease=0.4) as (parts,), joined(parts, "Ann") as ann:
        write = parts.store.write
        refused = 0

        async def busy(command: Command) -> Any:
            nonlocal refused
            if isinstance(command, LeaveSession) and refused < 2:
                refused += 1
                raise Overloaded("too much waits; retry")
            return await write(command)

        monkeypatch.setattr(parts.store, "write", busy)
        async with joined(parts, "Bob"):
            await ann.sees("Ann", "Bob")
        assert refused == 1
        assert parts.sessions.figures()["people"] == 1
        await ann.sees("Ann")
        assert refused == 2


async def test_a_query_that_fails_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(tmp_path, 1) as (parts,), joined(parts, "Ann") as ann:
        watch = parts.live.watch
        failures = iter([Overloaded("no room for it; retry"), ZeroDivisionError()])

        def failing(*asked: Any, **how: Any) -> Any:
            for failure in failures:
                raise failure
            return watch(*asked, **how)

        monkeypatch.setattr(parts.live, "watch", failing)
        await parts.sessions.revise(ann.stay, 0, LiveQuery(vector=[1.0, 0.0], k=1))
        await ann.finds("a")
        told = [frame for frame in ann.frames if frame["type"] == "live"]
        assert [frame["event"] for frame in told] == ["failed", "failed", "snapshot", "ready"]
        assert [frame["data"].get("code") for frame in told[:2]] == ["overloaded", "internal"]


async def test_who_reads_too_slowly_gets_the_state_instead_of_a_queue(tmp_path: Path) -> None:
    async with (
        processes(tmp_path, 1, buffer_bytes=64 << 10, notes=1_000) as (parts,),
        joined(parts, "Ann") as ann,
        joined(parts, "Bob") as bob,
    ):
        await bob.until(lambda: bob.people)
        bob.frames.clear()
        for number in range(40):
            await parts.sessions.place(ann.stay, "note", None, "a", f"{number} " + "x" * 3_000)
            await ann.notes_are(number + 1)
            parts.sessions.pass_on(ann.stay, msgspec.Raw(b"1"))
        bob.read()
        assert bob.frames[0]["type"] == "state"
        assert len(bob.frames) < 30
        assert bob.notes == ann.notes
        assert parts.sessions.figures()["messages_dropped"] > 0


async def test_nothing_is_left_of_those_who_have_gone(tmp_path: Path) -> None:
    async with processes(tmp_path, 1) as (parts,):
        for _ in range(3):
            async with joined(parts, "Ann") as ann, joined(parts, "Bob"):
                await ann.ask(vector=[1.0, 0.0])
                assert parts.sessions.figures()["people"] == 2
            assert parts.sessions.figures()["open"] == 0
            assert (await parts.sessions.get("tides")).people == []
            async with joined(parts, "Ann") as ann:
                await parts.sessions.revise(ann.stay, ann.query["revision"], None)
        with anyio.move_on_after(0):
            await parts.sessions.join("tides", None, Newcomer("Eve"))
        assert (await parts.sessions.get("tides")).people == []
        assert parts.sessions.figures()["people"] == 0


async def test_a_room_that_slept_through_a_trim_begins_anew(tmp_path: Path) -> None:
    async with processes(tmp_path, 1) as (parts,), joined(parts, "Ann") as ann:
        await parts.rooms._load_all_again()
        ann.frames.clear()
        ann.read()
        assert [frame["type"] for frame in ann.frames] == ["state"]
        assert ann.names == ["Ann"]
