"""What every store must keep of alerts, as tests: a backend's test module subclasses this."""

from __future__ import annotations

import numpy as np
import pytest
from store.backend import DIMENSION, Backend, Opened, draft, put
from store.reading import data, is_sound, whole_log

from headwater.errors import AlertNotFound, DimensionMismatch, LibraryNotFound, TooManyAlerts
from headwater.model import Alert, Library
from headwater.store.alert_commands import (
    CreateAlert,
    DeleteAlert,
    Match,
    Place,
    TellMatches,
    UpdateAlert,
)
from headwater.store.base import TrimLog
from headwater.store.library_commands import DeleteLibrary, SweepLibraries


async def make(opened: Opened, library: Library, id: str, most: int = 100) -> Alert:
    vector = np.arange(DIMENSION, dtype=np.float32)
    alert: Alert = await opened.store.write(
        CreateAlert(library.number, id, id.upper(), "q", vector, 0.5, b'{"a":1}', b'{"m":2}', most)
    )
    return alert


def match(alert: Alert, position: int, document: str = "x") -> Match:
    return Match(position, alert.row, document, f"{document}#0", None, 0.75, 1)


@pytest.mark.anyio
class AlertContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    async def test_alerts_are_kept_with_their_vectors(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            made = [await make(opened, library, id) for id in ("one", "two", "three")]
            read = await opened.store.read(lambda r: r.alerts(after=made[0].row, limit=10))
            assert [alert.id for alert in read] == ["two", "three"]
            assert read[0].vector.tolist() == list(range(DIMENSION))
            one = await opened.store.read(lambda r: r.alert(library.number, "one"))
            assert one is not None
            assert (one.name, one.query, one.score_threshold) == ("ONE", "q", 0.5)
            assert (one.filter, one.metadata, one.version) == (b'{"a":1}', b'{"m":2}', 1)
            assert one.position == made[0].position
            told = [c for c in await whole_log(opened) if c.type == "alert.created"]
            assert [(c.subject, c.position) for c in told] == [(a.id, a.position) for a in made]
            assert data(told[0])["metadata"] == {"m": 2}
            with pytest.raises(TooManyAlerts):
                await make(opened, library, "four", most=3)
            short = UpdateAlert(library.number, "one", vector=np.zeros(1, np.float32))
            with pytest.raises(DimensionMismatch):
                await opened.store.write(short)
            await is_sound(opened)

    async def test_a_change_holds_from_its_position_on(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            alert = await make(opened, library, "one")
            same = UpdateAlert(library.number, "one", name="ONE", score_threshold=0.5)
            assert (await opened.store.write(same)).version == 1
            changed = await opened.store.write(
                UpdateAlert(library.number, "one", name=None, filter=None, score_threshold=0.9)
            )
            assert (changed.version, changed.name, changed.filter) == (2, None, None)
            assert changed.position > alert.position
            await opened.store.write(DeleteAlert(library.number, "one"))
            assert [c.type for c in await whole_log(opened)][1:] == [
                "alert.created",
                "alert.updated",
                "alert.deleted",
            ]
            for command in (UpdateAlert(library.number, "one"), DeleteAlert(library.number, "one")):
                with pytest.raises(AlertNotFound):
                    await opened.store.write(command)

    async def test_a_match_is_told_once_and_its_place_is_saved_with_it(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            assert await store.read(lambda r: r.alerts_place()) is None
            one, two = await make(opened, library, "one"), await make(opened, library, "two")
            written = await store.write(put(library, draft("x", "a")))
            at = written[0].position
            assert await store.write(TellMatches(Place(at - 1, one.row), [match(one, at)])) == 1
            both = TellMatches(Place(at), [match(one, at), match(two, at)])
            assert await store.write(both) == 1, "what was told is left out"
            assert await store.write(both) == 0
            assert await store.read(lambda r: r.alerts_place()) == Place(at)
            told = [c for c in await whole_log(opened) if c.type == "alert.matched"]
            assert [c.subject for c in told] == ["one", "two"]
            assert data(told[0]) == {
                "alert_id": "one",
                "name": "ONE",
                "document_id": "x",
                "chunk_id": "x#0",
                "title": None,
                "score": 0.75,
                "version": 1,
                "metadata": {"m": 2},
            }
            await store.write(DeleteAlert(library.number, "two"))
            assert await store.write(TellMatches(Place(at + 9), [match(two, at + 9)])) == 0

    async def test_the_log_is_trimmed_no_further_than_alerts_are_matched(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            alert = await make(opened, library, "one")
            last = alert.position
            for number in range(5):
                (written,) = await store.write(put(library, draft(f"d{number}", "a")))
                last = written.position
            everything = TrimLog(before_us=1 << 60, keep=0, limit=1_000)
            assert await store.write(everything) == alert.position - 1
            assert await store.write(everything) == alert.position - 1
            await store.write(TellMatches(Place(alert.position + 2, alert.row), ()))
            assert await store.write(everything) == alert.position + 2
            await store.write(DeleteAlert(library.number, "one"))
            assert await store.write(everything) == last, "nobody needs it any more"
            await is_sound(opened)

    async def test_alerts_go_with_their_library(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            for number in range(5):
                await make(opened, library, f"a{number}")
            await store.write(DeleteLibrary(library.number))
            assert await store.read(lambda r: r.alerts(after=0, limit=10)) == []
            assert await store.read(lambda r: r.alerts_by_id(["a1"])) == {}
            with pytest.raises(LibraryNotFound):
                await make(opened, library, "late")
            while await store.write(SweepLibraries(2)):
                pass
            await is_sound(opened)
