"""What every store must keep of sessions, as tests: a backend's test module subclasses this."""

from __future__ import annotations

from typing import Any

import pytest
from store.backend import Backend, Opened, draft, put
from store.reading import data, is_sound, whole_log

from headwater.errors import (
    DocumentNotFound,
    LibraryNotFound,
    NoteNotFound,
    PinNotFound,
    SessionElsewhere,
    SessionFull,
    SessionNotFound,
    StaleRevision,
    TooManyNotes,
    TooManyPins,
    TooManySessions,
)
from headwater.model import Author, Change, Library, Mark, Session, SessionState
from headwater.store.library_commands import DeleteLibrary, SweepLibraries
from headwater.store.session_commands import (
    DeleteSession,
    ForgetSessions,
    Joined,
    JoinSession,
    LeaveSession,
    PlaceMark,
    RemoveLostPeople,
    RemoveMark,
    RenewLease,
    ReviseMark,
    ReviseQuery,
)

ANN = Author("Ann", "#aa0000")
FAR_US = 1 << 60


def join(library: Library | None, person: str = "p1", name: str = "tides", **fields: Any) -> Any:
    given: dict[str, Any] = {
        "name": name,
        "number": None if library is None else library.number,
        "session_id": f"{name}-id",
        "person_id": person,
        "display_name": person.title(),
        "colour": "#aa0000",
        "client_id": None,
        "process": "one",
        "lease_us": FAR_US,
        "most_sessions": 10,
        "most_people": 3,
    }
    return JoinSession(**given | fields)


def place(session: Session, mark: str, **fields: Any) -> PlaceMark:
    given: dict[str, Any] = {
        "session_id": session.id,
        "kind": "pin",
        "mark_id": mark,
        "document_id": "x",
        "ordinal": 0,
        "text": None,
        "author": ANN,
        "most": 2,
    }
    return PlaceMark(**given | fields)


async def begun(opened: Opened) -> tuple[Library, Session]:
    """A library with one document of two chunks, and a session on it with one person."""
    library = await opened.library()
    await opened.store.write(put(library, draft("x", "a", "b", title="X")))
    joined: Joined = await opened.store.write(join(library))
    return library, joined.session


async def state(opened: Opened, ref: str = "tides") -> SessionState:
    found = await opened.store.read(lambda reader: reader.session_state(ref))
    assert found is not None
    return found


async def told(opened: Opened, kind: str = "session.") -> list[Change]:
    return [change for change in await whole_log(opened) if change.type.startswith(kind)]


@pytest.mark.anyio
class SessionContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    async def test_the_first_to_join_begins_the_session(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, session = await begun(opened)
            second: Joined = await opened.store.write(join(None, "p2"))
            assert (session.name, session.people, second.session.people) == ("tides", 1, 2)
            assert session.library_id == library.id
            whole = await state(opened)
            assert whole.session == second.session
            assert [person.id for person in whole.people] == ["p1", "p2"]
            assert whole.position == second.position
            changes = await told(opened)
            assert [change.type for change in changes] == [
                "session.created",
                "session.joined",
                "session.joined",
            ]
            assert changes[0].position == session.position
            assert {change.library_id for change in changes} == {library.id}
            assert {change.subject for change in changes} == {session.id}
            said = data(changes[-1])
            assert (said["session"], said["people"], said["person"]["name"]) == ("tides", 2, "P2")
            assert "client_id" not in said["person"]
            await is_sound(opened)

    async def test_joining_is_refused_with_the_reason(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, _ = await begun(opened)
            other = await opened.library("other")
            head = len(await whole_log(opened))
            write = opened.store.write
            with pytest.raises(SessionNotFound):
                await write(join(None, name="nobody's"))
            with pytest.raises(SessionElsewhere):
                await write(join(other, "p2"))
            with pytest.raises(LibraryNotFound):
                await write(join(library, "p2", number=99))
            with pytest.raises(SessionFull):
                await write(join(library, "p2", most_people=1))
            with pytest.raises(TooManySessions):
                await write(join(library, "p2", name="more", most_sessions=1))
            assert len(await whole_log(opened)) == head
            assert len((await state(opened)).people) == 1

    async def test_a_client_that_comes_again_replaces_itself(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, _ = await begun(opened)
            await opened.store.write(join(library, "p2", client_id="c"))
            await opened.store.write(join(library, "p3", client_id="c", most_people=2))
            assert [person.id for person in (await state(opened)).people] == ["p1", "p3"]
            left, joined = (await told(opened))[-2:]
            assert (left.type, data(left)["reason"], data(left)["people"]) == (
                "session.left",
                "replaced",
                1,
            )
            assert (joined.type, data(joined)["people"]) == ("session.joined", 2)

    async def test_leaving_is_told_once(self, backend: Backend) -> None:
        async with backend.open() as opened:
            await begun(opened)
            position = await opened.store.write(LeaveSession("p1", "left"))
            assert await opened.store.write(LeaveSession("p1", "left")) is None
            (left,) = await told(opened, "session.left")
            assert left.position == position
            assert (data(left)["reason"], data(left)["people"]) == ("left", 0)
            assert (await state(opened)).people == []

    async def test_people_of_dead_and_silent_processes_are_lost(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, _ = await begun(opened)
            write = opened.store.write
            await write(join(library, "p2", process="dead"))
            await write(join(library, "p3", process="silent", lease_us=opened.clock.now_us() - 1))
            holders = await opened.store.read(lambda reader: reader.session_holders())
            assert holders.keys() == {"one", "dead", "silent"}
            assert await write(RemoveLostPeople({"dead"}, opened.clock.now_us())) == 2
            assert await write(RemoveLostPeople({"dead"}, opened.clock.now_us())) == 0
            assert [person.id for person in (await state(opened)).people] == ["p1"]
            assert [
                (data(change)["person"]["person_id"], data(change)["reason"])
                for change in await told(opened, "session.left")
            ] == [("p2", "lost"), ("p3", "lost")]

    async def test_a_renewed_lease_keeps_the_people(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            await opened.store.write(join(library, lease_us=opened.clock.now_us() - 1))
            await opened.store.write(RenewLease("one", FAR_US))
            assert await opened.store.write(RemoveLostPeople((), opened.clock.now_us())) == 0
            assert (await opened.store.read(lambda reader: reader.session_holders())) == {
                "one": FAR_US
            }

    async def test_a_clock_set_back_ends_no_lease(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            clock = opened.clock
            clock.us = clock.now_us() - 3_600_000_000
            await opened.store.write(join(library, lease_us=clock.us + 10_000_000))
            assert await opened.store.write(RemoveLostPeople((), clock.us)) == 0
            assert await opened.store.write(RemoveLostPeople((), clock.us + 11_000_000)) == 1

    async def test_a_stale_edit_of_the_query_is_refused_with_what_there_is(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            _, session = await begun(opened)
            revised: Session = await opened.store.write(
                ReviseQuery(session.id, 0, b'{"vector":[1,2],"k":3}', ANN)
            )
            assert (revised.revision, revised.author) == (1, ANN)
            with pytest.raises(StaleRevision) as refused:
                await opened.store.write(ReviseQuery(session.id, 0, b'{"query":"b"}', ANN))
            current = refused.value.fields["current"]
            assert (current["revision"], current["query"]) == (1, {"k": 3, "vector_dimension": 2})
            assert (await state(opened)).session == revised
            (updated,) = await told(opened, "session.updated")
            assert updated.position == revised.position
            assert data(updated)["query"] == {"k": 3, "vector_dimension": 2}

    async def test_pins_are_on_things_that_are_there_and_only_once(self, backend: Backend) -> None:
        async with backend.open() as opened:
            _, session = await begun(opened)
            write = opened.store.write
            pin: Mark = await write(place(session, "m1", text="look"))
            assert (pin.chunk_id, pin.title, pin.revision) == ("x#0", "X", 1)
            assert await write(place(session, "m2")) == pin
            whole: Mark = await write(place(session, "m3", ordinal=None))
            assert whole.chunk_id is None
            for wrong in ({"document_id": "y"}, {"ordinal": 2}):
                with pytest.raises(DocumentNotFound):
                    await write(place(session, "m4", **wrong))
            with pytest.raises(TooManyPins):
                await write(place(session, "m5", ordinal=1))
            assert (await state(opened)).marks == [pin, whole]
            pinned = await told(opened, "session.pinned")
            assert [data(change)["pin"]["pin_id"] for change in pinned] == ["m1", "m3"]

    async def test_notes_are_edited_and_removed_by_revision(self, backend: Backend) -> None:
        async with backend.open() as opened:
            _, session = await begun(opened)
            write = opened.store.write
            note: Mark = await write(place(session, "n1", kind="note", text="first", most=1))
            with pytest.raises(TooManyNotes):
                await write(place(session, "n2", kind="note", text="more", most=1))
            edited: Mark = await write(ReviseMark(session.id, "note", "n1", 1, "second"))
            assert (edited.text, edited.revision, edited.author) == ("second", 2, ANN)
            for stale in (
                ReviseMark(session.id, "note", "n1", 1, "third"),
                RemoveMark(session.id, "note", "n1", 1, ANN),
            ):
                with pytest.raises(StaleRevision) as refused:
                    await write(stale)
                assert refused.value.fields["current"]["text"] == "second"
            with pytest.raises(PinNotFound):
                await write(RemoveMark(session.id, "pin", "n1", 2, ANN))
            await write(RemoveMark(session.id, "note", "n1", 2, Author("Bob")))
            with pytest.raises(NoteNotFound):
                await write(ReviseMark(session.id, "note", "n1", 2, "gone"))
            assert (await state(opened)).marks == []
            changes = [*await told(opened, "session.noted"), *await told(opened, "session.note_")]
            assert [data(change)["note"]["revision"] for change in changes] == [1, 2, 2]
            assert data(changes[-1])["note"]["author"]["name"] == "Bob"
            assert note.created_us == edited.created_us

    async def test_sessions_are_listed_with_their_counts(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, session = await begun(opened)
            other = await opened.library("other")
            await opened.store.write(place(session, "m1"))
            await opened.store.write(place(session, "n1", kind="note", text="t"))
            await opened.store.write(join(other, "p2", name="second"))
            read = opened.store.read
            first, second = await read(lambda reader: reader.sessions(after=0, limit=9))
            assert (first.name, first.people, first.pins, first.notes) == ("tides", 1, 1, 1)
            assert (second.name, second.library_name) == ("second", "other")
            assert await read(lambda reader: reader.sessions(after=first.row, limit=9)) == [second]
            assert await read(
                lambda reader: reader.sessions(after=0, limit=9, library=library.number)
            ) == [first]
            assert await read(lambda reader: reader.session(second.id)) == second
            assert await read(lambda reader: reader.session("third")) is None

    async def test_a_deleted_session_is_gone_with_all_in_it(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, session = await begun(opened)
            await opened.store.write(place(session, "m1"))
            position = await opened.store.write(DeleteSession(session.id))
            with pytest.raises(SessionNotFound):
                await opened.store.write(DeleteSession(session.id))
            with pytest.raises(SessionNotFound):
                await opened.store.write(place(session, "m2"))
            assert await opened.store.write(LeaveSession("p1", "left")) is None
            (deleted,) = await told(opened, "session.deleted")
            assert deleted.position == position
            assert data(deleted)["pins"] == 1
            again: Joined = await opened.store.write(join(library, session_id="another"))
            assert (again.session.revision, again.session.pins) == (0, 0)
            await is_sound(opened)

    async def test_sessions_go_with_their_library(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, session = await begun(opened)
            await opened.store.write(place(session, "m1"))
            await opened.store.write(DeleteLibrary(library.number))
            read = opened.store.read
            assert await read(lambda reader: reader.session("tides")) is None
            assert await read(lambda reader: reader.sessions(after=0, limit=9)) == []
            assert await opened.store.write(LeaveSession("p1", "left")) is None
            other = await opened.library("other")
            await opened.store.write(join(other, "p2", session_id="another"))
            await is_sound(opened)
            while await opened.store.write(SweepLibraries(10)):
                await is_sound(opened)
            assert [person.id for person in (await state(opened)).people] == ["p2"]
            await is_sound(opened)

    async def test_sessions_nobody_comes_to_are_forgotten(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library, _ = await begun(opened)
            for name in ("one", "two"):
                await opened.store.write(join(library, name, name=name, process="p"))
                await opened.store.write(LeaveSession(name, "left"))
            now_us = opened.clock.now_us() + 1
            assert await opened.store.write(ForgetSessions(0, 9)) == []
            assert await opened.store.write(ForgetSessions(now_us, 1)) == ["one-id"]
            assert await opened.store.write(ForgetSessions(now_us, 9)) == ["two-id"]
            left = await opened.store.read(lambda reader: reader.sessions(after=0, limit=9))
            assert [session.name for session in left] == ["tides"]
            assert len(await told(opened, "session.deleted")) == 2

    async def test_a_session_outlives_the_store_that_made_it(self, backend: Backend) -> None:
        async with backend.open() as opened:
            _, session = await begun(opened)
            await opened.store.write(ReviseQuery(session.id, 0, b'{"query":"a"}', ANN))
            await opened.store.write(place(session, "n1", kind="note", text="kept"))
            before = await state(opened)
        async with backend.open() as opened:
            assert await state(opened) == before
