"""Random people in one session through two processes: whatever they do, all see the same.

The truth is the store. At the end of each story everybody who is still there has exactly its state,
and finds what an exact search finds; who came, left, was slow or was put out in between does not
matter.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service.test_sessions import Person, joined, processes
from service.whole import put

from headwater.app import Parts
from headwater.errors import (
    DocumentNotFound,
    NoteNotFound,
    PinNotFound,
    StaleRevision,
    TooManyNotes,
    TooManyPins,
)
from headwater.model import MarkKind
from headwater.service.live import LiveQuery
from headwater.service.query import Query
from headwater.store.session_data import mark_data, person_data, query_data

PEOPLE = 4
REFUSALS = (StaleRevision, PinNotFound, NoteNotFound, TooManyNotes, TooManyPins, DocumentNotFound)

who = st.integers(0, PEOPLE - 1)
angle = st.floats(-1, 1, width=16)
document = st.sampled_from("abcdef")
kind = st.sampled_from(["pin", "note"])
step = st.one_of(
    st.tuples(st.just("come"), who),
    st.tuples(st.just("come again"), who),
    st.tuples(st.just("go"), who),
    st.tuples(st.just("read"), who),
    st.tuples(st.just("ask"), who, angle, st.integers(1, 6), st.integers(-1, 0)),
    st.tuples(st.just("ask nothing"), who),
    st.tuples(st.just("mark"), who, kind, document),
    st.tuples(st.just("edit"), who, kind, st.integers(0, 5), st.integers(-1, 0)),
    st.tuples(st.just("unmark"), who, kind, st.integers(0, 5)),
    st.tuples(st.just("say"), who),
    st.tuples(st.just("write"), document, angle),
    st.tuples(st.just("write"), document, angle),
    st.tuples(st.just("drop"), document),
)


class Story:
    def __init__(self, parts: list[Parts], stack: AsyncExitStack) -> None:
        self.parts = parts
        self.stack = stack
        self.people: dict[int, Person] = {}
        self.stays: dict[int, AsyncExitStack] = {}

    async def play(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("come", number) if number not in self.people:
                await self._come(number)
            case ("come again", number) if number in self.people:
                before, stay = self.people.pop(number), self.stays.pop(number)
                await self._come(number)
                await before.put_out()
                await stay.aclose()
            case ("go", number) if number in self.people:
                del self.people[number]
                await self.stays.pop(number).aclose()
            case ("read", number) if number in self.people:
                self.people[number].read()
            case ("write", id, angle):
                library = await self.parts[0].libraries.get("notes")
                await put(self.parts[0], library, id, [(id, (1.0, float(angle)))])
            case ("drop", id):
                library = await self.parts[1].libraries.get("notes")
                with suppress(DocumentNotFound):
                    await self.parts[1].documents.delete(library, id, if_version=None)
            case (action, number, *rest) if number in self.people:
                with suppress(*REFUSALS):
                    await self._act(action, self.people[number], rest)

    async def _come(self, number: int) -> None:
        stay = await self.stack.enter_async_context(AsyncExitStack())
        parts = self.parts[number % len(self.parts)]
        self.people[number] = await stay.enter_async_context(
            joined(parts, f"P{number}", client_id=f"client-{number}")
        )
        self.stays[number] = stay

    async def _act(self, action: str, person: Person, rest: list[Any]) -> None:
        sessions, stay = person.parts.sessions, person.stay
        revision = person.query["revision"]
        match action, rest:
            case "ask", [angle, k, off]:
                query = LiveQuery(vector=[1.0, float(angle)], k=k)
                await sessions.revise(stay, revision + off, query)
            case "ask nothing", []:
                await sessions.revise(stay, revision, None)
            case "mark", [kind, document]:
                await sessions.place(stay, kind, f"{document}#0", None, f"about {document}")
            case "edit", [kind, index, off]:
                if (mark := _mark(person, kind, index)) is not None:
                    base = mark["revision"] + off
                    await sessions.revise_mark(stay, kind, mark[f"{kind}_id"], base, "edited")
            case "unmark", [kind, index]:
                if (mark := _mark(person, kind, index)) is not None:
                    await sessions.remove_mark(stay, kind, mark[f"{kind}_id"], mark["revision"])
            case "say", []:
                sessions.pass_on(stay, msgspec.Raw(b'{"x":"' + b"y" * 2_000 + b'"}'))

    async def all_see_the_truth(self) -> None:
        parts = self.parts[0]
        state = await parts.sessions.get("tides")
        people = [person_data(person) for person in state.people]
        marks: dict[str, dict[str, Any]] = {"pin": {}, "note": {}}
        for mark in state.marks:
            marks[mark.kind][mark.id] = mark_data(mark)
        found = None
        if state.session.query is not None:
            asked = json.loads(state.session.query)
            answer = await parts.search.search(
                await parts.libraries.get("notes"),
                Query(vector=asked["vector"], k=asked["k"], exact=True),
            )
            found = [hit.passage.document_id for hit in answer.hits]
        assert len(people) == len(self.people)
        for person in self.people.values():
            await person.until(
                lambda person=person: (  # type: ignore[misc] # bound now: the loop goes on
                    list(person.people.values()) == people
                    and (person.pins, person.notes) == (marks["pin"], marks["note"])
                    and person.query == query_data(state.session)
                    and person.found == found
                )
            )


def _mark(person: Person, kind: MarkKind, index: int) -> dict[str, Any] | None:
    marks = list((person.pins if kind == "pin" else person.notes).values())
    return marks[index % len(marks)] if marks else None


async def tell(folder: Path, steps: list[tuple[Any, ...]]) -> None:
    limits = {"buffer_bytes": 64 << 10, "pins": 3, "notes": 3}
    async with processes(folder, 2, **limits) as parts, AsyncExitStack() as stack:
        story = Story(parts, stack)
        await story.play(("come", 0))
        for step in steps:
            await story.play(step)
        await story.all_see_the_truth()
        figures = [each.sessions.figures() for each in parts]
        assert sum(each["people"] for each in figures) == len(story.people)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(steps=st.lists(step, max_size=40))
def test_whatever_people_do_all_see_the_same(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(tell, Path(folder), steps)


@pytest.mark.soak
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(step, max_size=120))
def test_whatever_many_people_do_all_see_the_same(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(tell, Path(folder), steps)
