"""Whatever is written, each alert matches what a plain comparison says, once per version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from filters.random_filters import filters, metadata
from hypothesis import example, given, settings
from hypothesis import strategies as st
from live.model import DIMENSION, vector_of
from live.test_exactness import Stage
from search.brute import ranked
from service.whole import running, whole
from store.backend import draft

from headwater.app import Parts
from headwater.clock import SystemClock
from headwater.errors import AlertNotFound, InvalidQuery, TooManyAlerts
from headwater.filters import matches, parse
from headwater.model import Alert, Library, Metric, Position
from headwater.service.alert_matching import AlertMatching
from headwater.service.alerts import AlertPatch, NewAlert
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.settings import LiveSettings, Settings
from headwater.store.alert_commands import CreateAlert
from headwater.store.base import PutDocuments, Together

IDS = st.integers(0, 6).map(lambda number: f"d{number}")
CHUNKS = st.lists(st.tuples(st.integers(0, 12), st.just({}) | metadata), min_size=1, max_size=4)
FLOORS = st.sampled_from([-0.2, 0.0, 0.2, 0.5, 0.9])
STEP = st.one_of(
    st.tuples(st.just("put"), IDS, CHUNKS, metadata),
    st.tuples(st.just("put"), IDS, CHUNKS, metadata),
    st.tuples(st.just("patch"), IDS, metadata),
    st.tuples(st.just("delete"), IDS),
    st.tuples(st.just("alert"), st.integers(0, 12), FLOORS, st.none() | filters),
    st.tuples(st.just("move"), st.integers(0, 3), FLOORS),
    st.tuples(st.just("drop"), st.integers(0, 3)),
)
TINY = LiveSettings(step_rows=3, max_alerts=50)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            running(Settings(data=tmp_path_factory.mktemp("data"), live=TINY))
        ) as parts,
    ):
        yield Stage(portal, parts)


Version = tuple[str, int, list[tuple[int, dict[str, Any]]], dict[str, Any]]


Match = tuple[str, str, int, str, float]


class Expected:
    """What must be told: alert, document, version, chunk and score, as often as it happened.

    A document that is deleted and put again begins at version 1 again.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.alerts: dict[str, tuple[int, float, dict[str, Any] | None]] = {}
        self.matches: list[Match] = []

    def written(
        self, id: str, version: int, chunks: list[tuple[int, Any]], own: dict[str, Any]
    ) -> None:
        for alert, (seed, floor, wanted) in self.alerts.items():
            made = None if wanted is None else parse(wanted)
            passing = {
                number: vector_of(chunk)
                for number, (chunk, chunk_own) in enumerate(chunks)
                if made is None or matches(made, {**own, **chunk_own})
            }
            ordinals, scores = ranked(self.metric, passing, vector_of(seed), 1)
            if ordinals and scores[0] >= floor:
                self.matches.append((alert, id, version, f"{id}#{ordinals[0]}", scores[0]))


@given(
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    begun=st.lists(
        st.tuples(st.just("alert"), st.integers(0, 12), FLOORS, st.none() | filters), max_size=3
    ),
    steps=st.lists(STEP, max_size=25),
)
@example(
    metric="cosine",
    begun=[("alert", 0, -0.2, None)],
    steps=[("put", "d0", [(0, {})], {}), ("delete", "d0"), ("put", "d0", [(0, {})], {})],
)
@settings(max_examples=50, deadline=None)
def test_each_alert_is_told_each_version_it_matches_once(
    stage: Stage, metric: Metric, begun: list[Any], steps: list[Any]
) -> None:
    stage.portal.call(_story, stage.parts, metric, [*begun, *steps])


async def _story(parts: Parts, metric: Metric, steps: list[Any]) -> None:
    name = SystemClock().uuid7().replace("-", "")
    library = await parts.libraries.create(
        name, embedder="none", dimension=DIMENSION, metric=metric
    )
    start = parts.log.head
    expected, documents = Expected(metric), dict[str, Any]()
    for step in steps:
        match step:
            case ("put", id, chunks, own):
                await _seen(parts, documents.get(id, []))
                version = await _put(parts, library, id, chunks, own)
                if version is not None:
                    documents[id] = chunks
                    expected.written(id, version, chunks, own)
            case ("patch", id, patch) if id in documents:
                written = await parts.documents.patch(library, id, metadata=patch)
                found = await parts.documents.get(library, id)
                own = msgspec.json.decode(found.document.metadata)
                if written.status != "unchanged":
                    await _caught_up(parts)  # its vectors are read, so they must be there still
                    expected.written(id, written.version, documents[id], own)
            case ("delete", id) if id in documents:
                await _seen(parts, documents[id])
                await parts.documents.delete(library, id)
                del documents[id]
            case ("alert", seed, floor, wanted):
                alert = await parts.alerts.create(
                    library,
                    NewAlert(floor, vector=vector_of(seed).tolist(), filter=wanted),
                )
                expected.alerts[alert.id] = seed, floor, wanted
            case ("move", number, floor) if number < len(expected.alerts):
                id = list(expected.alerts)[number]
                await _caught_up(parts)  # alerts are taken as they are when they are looked at
                await parts.alerts.patch(library, id, AlertPatch(score_threshold=floor))
                seed, _, wanted = expected.alerts[id]
                expected.alerts[id] = seed, floor, wanted
            case ("drop", number) if number < len(expected.alerts):
                id = list(expected.alerts)[number]
                await _caught_up(parts)  # what is deleted is told nothing more
                await parts.alerts.delete(library, id)
                del expected.alerts[id]
    await _caught_up(parts)
    assert sorted(await _told(parts, library, start)) == sorted(expected.matches)
    await parts.libraries.delete(library.id)


async def _put(
    parts: Parts, library: Library, id: str, chunks: list[tuple[int, Any]], own: dict[str, Any]
) -> int | None:
    given = [ChunkInput(None, vector_of(seed).tolist(), more or None) for seed, more in chunks]
    document = DocumentInput(id=id, chunks=given, metadata=own)
    written = await parts.documents.put(library, document, size_bytes=0)
    return None if written.status == "unchanged" else written.version


async def _caught_up(parts: Parts) -> None:
    with anyio.fail_after(20):
        await parts.alert_matching.reached.wait_past(parts.log.head - 1)


async def _seen(parts: Parts, chunks: list[tuple[int, Any]]) -> None:
    """What chunks say of themselves goes with them: they must have been looked at by then."""
    if any(own for _, own in chunks):
        await _caught_up(parts)


async def _told(parts: Parts, library: Library, after: Position) -> list[Match]:
    told: list[Match] = []
    page = await parts.log.read(after, 10_000, library_ids={library.id}, types={"alert.matched"})
    for change in page.changes:
        data = msgspec.json.decode(change.data)
        told.append(
            (
                data["alert_id"],
                data["document_id"],
                data["version"],
                data["chunk_id"],
                data["score"],
            )
        )
    return told


@pytest.mark.anyio
async def test_alerts_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    tiny = LiveSettings(max_alerts=1)
    async with running(Settings(data=tmp_path, live=tiny)) as parts:
        library = await parts.libraries.create("notes")
        for wrong in (
            NewAlert(0.5),
            NewAlert(0.5, query="x", vector=[0.0]),
            NewAlert(float("inf"), query="x"),
            NewAlert(0.5, query="x", name=""),
        ):
            with pytest.raises(InvalidQuery):
                await parts.alerts.create(library, wrong)
        made = await parts.alerts.create(library, NewAlert(0.5, query="x"))
        with pytest.raises(TooManyAlerts):
            await parts.alerts.create(library, NewAlert(0.5, query="y"))
        with pytest.raises(AlertNotFound):
            await parts.alerts.get(library, "none")
        changed: Alert = await parts.alerts.patch(library, made.id, AlertPatch(query="moon"))
        assert (changed.query, changed.version) == ("moon", 2)
        assert changed.vector.tolist() != made.vector.tolist()


@pytest.mark.anyio
@pytest.mark.parametrize("far", [False, True], ids=["from the ring", "from the store"])
async def test_what_is_committed_with_a_librarys_first_alert_is_matched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, far: bool
) -> None:
    """The follower meets both in one stretch, and knew nothing of the library before."""
    if far:
        monkeypatch.setattr(AlertMatching, "_from_ring", lambda self: None)
    async with whole(tmp_path) as parts:
        other = await parts.libraries.create("other", embedder="none", dimension=DIMENSION)
        await parts.alerts.create(other, NewAlert(0.9, vector=vector_of(3).tolist()))
        library = await parts.libraries.create("notes", embedder="none", dimension=DIMENSION)
        await _caught_up(parts)
        start = parts.log.head
        alert = CreateAlert(library.number, "a", None, None, vector_of(1), 0.5, None, b"{}", 10)
        document = PutDocuments(library.number, [draft("d", "sea")], vector_of(1)[None])
        await parts.log.store.write(Together([alert, document]))
        await _caught_up(parts)
        told = await _told(parts, library, start)
    assert [match[:3] for match in told] == [("a", "d", 1)]


@pytest.mark.anyio
async def test_what_is_matched_again_after_a_restart_is_told_once_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is behind: it is saved with each match, and else every ten seconds."""
    alike, unlike = vector_of(1), -vector_of(1)

    async def write(parts: Parts, *documents: tuple[str, Any]) -> None:
        library = await parts.libraries.get("notes")
        for id, vector in documents:
            await parts.log.store.write(PutDocuments(library.number, [draft(id, id)], vector[None]))

    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes", embedder="none", dimension=DIMENSION)
        await parts.alerts.create(library, NewAlert(0.5, vector=alike.tolist()))
        await write(parts, ("a", alike), ("b", unlike), ("c", unlike))
        await _caught_up(parts)
        place = await parts.log.store.read(lambda reader: reader.alerts_place())
        assert place is not None
        assert place.position < parts.alert_matching.position
    with monkeypatch.context() as patch:  # a process that dies before it has matched anything

        async def never(self: AlertMatching) -> None:
            await anyio.sleep_forever()

        patch.setattr(AlertMatching, "_turn", never)
        async with whole(tmp_path) as parts:
            await write(parts, ("d", alike), ("e", unlike))
    async with whole(tmp_path) as parts:
        await write(parts, ("f", alike))
        await _caught_up(parts)
        told = await _told(parts, library, 0)
    assert [match[1] for match in told] == ["a", "d", "f"]
