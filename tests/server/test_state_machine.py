"""Random lives of a library against a dictionary, a list and exact search in numpy.

One real server lives through all examples, each with a library of its own, and is restarted and
killed on the way. Thresholds are tiny, so that segments, merges, snapshots and trims are common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import invariants
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray
from server.client import Client, Json
from server.pump import Pump
from server.running import Server, eventually

from headwater.settings import SearchSettings

Serve = Callable[..., Server]

TINY: dict[str, Any] = {
    "search__seal_rows": 16,
    "search__exact_rows": 0,
    "search__settle": 0.05,
    "search__snapshot_every": 0.2,
    "ingest__group_lines": 7,
    "log__retention_changes": 1000,
    "log__trim_every": 0.1,
    "log__ring_bytes": 1 << 20,
    "feeds__page_changes": 5,
}
DIMENSION = 4
TOLERANCE = 1e-4
RECALL_FLOOR = 0.8
DOCUMENT_EVENTS = "document.*"

ids = st.sampled_from([f"d{n}" for n in range(12)] + ["päth/with ?odd#", "ü"])
numbers = st.integers(-4, 4)
vectors = st.lists(numbers, min_size=DIMENSION, max_size=DIMENSION).filter(any)
metadata = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=2)
bodies = st.fixed_dictionaries(
    {
        "chunks": st.lists(
            st.fixed_dictionaries({"vector": vectors, "text": st.sampled_from(["", "x", "y z"])}),
            min_size=1,
            max_size=3,
        ),
        "metadata": metadata,
    },
    optional={"title": st.sampled_from(["one", "two"])},
)


@dataclass
class Entry:
    """What the model knows of a document."""

    body: Json
    version: int
    cursor: str


@dataclass
class Told:
    """One event that the log must hold."""

    cursor: str
    kind: str
    id: str
    version: int


@dataclass
class Subscription:
    """A reader that comes and goes: where it stands, and the state it has put together."""

    cursor: str
    seen: int
    versions: dict[str, int] = field(default_factory=dict)


class Life(RuleBasedStateMachine):
    server: ClassVar[Server]
    client: ClassVar[Client]
    ends_at_most: ClassVar[int]
    """Restarts and kills in one life, each of which takes seconds; twice as many trims."""

    subscriptions = Bundle("subscriptions")

    @initialize(metric=st.sampled_from(["cosine", "dot", "euclidean"]))
    def create(self, metric: str) -> None:
        self.metric = metric
        created = self.client.create_library(embedder="none", dimension=DIMENSION, metric=metric)
        self.library: str = created["id"]
        self.cursor: str = created["cursor"]
        self.documents: dict[str, Entry] = {}
        self.told: list[Told] = []
        self.ends = self.trims = 0
        self.numbers = itertools.count()

    # ── Writing ─────────────────────────────────────────────────────────────────────────────────

    @rule(id=ids, body=bodies)
    def put(self, id: str, body: Json) -> None:
        answer = self.client.http.put(self.path(id), json=body).json()
        self.written(id, body, answer)

    @rule(batch=st.lists(st.tuples(ids, bodies), max_size=30), bad=st.booleans())
    def stream(self, batch: list[tuple[str, Json]], bad: bool) -> None:
        lines: list[Json] = [{"id": id, **body} for id, body in batch]
        if bad:
            lines.insert(len(lines) // 2, {"id": "bad", "chunks": [{"vector": [1]}]})
        records = self.client.stream(self.library, lines)
        results = [record for record in records if record["type"] == "result"]
        assert [result["line"] for result in results] == list(range(1, len(lines) + 1))
        good = [result for result in results if result["status"] != "failed"]
        assert [result["id"] for result in good] == [id for id, _ in batch]
        for (id, body), result in zip(batch, good, strict=True):
            self.written(id, body, result)
        assert records[-1]["failed"] == bad
        assert records[-1]["searchable"] is True

    @rule(id=ids, title=st.none() | st.sampled_from(["two", "three"]), patch=metadata)
    def patch(self, id: str, title: str | None, patch: Json) -> None:
        answer = self.client.http.patch(self.path(id), json={"title": title, "metadata": patch})
        if id not in self.documents:
            assert answer.status_code == 404
            return
        body = dict(self.documents[id].body, metadata=self.documents[id].body["metadata"] | patch)
        body.pop("title", None)
        if title is not None:
            body["title"] = title
        self.written(id, body, answer.json())

    @rule(id=ids)
    def delete(self, id: str) -> None:
        answer = self.client.http.delete(self.path(id))
        entry = self.documents.pop(id, None)
        if entry is None:
            assert answer.status_code == 404
            return
        self.cursor = answer.json()["cursor"]
        self.told.append(Told(self.cursor, "document.deleted", id, entry.version))

    def written(self, id: str, body: Json, answer: Json) -> None:
        """Take the answer of a write into the model, and check it against it."""
        before = self.documents.get(id)
        same = before is not None and alike(before.body, body)
        expected = "unchanged" if same else "updated" if before else "created"
        assert answer["status"] == expected, (id, answer, before, body)
        if before is not None and same:
            assert answer["cursor"] == before.cursor
            return
        version = before.version + 1 if before else 1
        assert answer.get("version", version) == version
        self.cursor = answer["cursor"]
        self.documents[id] = Entry(body, version, self.cursor)
        kind = "document.updated" if before else "document.added"
        self.told.append(Told(self.cursor, kind, id, version))

    # ── Reading ─────────────────────────────────────────────────────────────────────────────────

    @rule(id=ids)
    def get(self, id: str) -> None:
        answer = self.client.http.get(self.path(id))
        entry = self.documents.get(id)
        assert answer.status_code == (404 if entry is None else 200)
        if entry is not None:
            assert same_document(answer.json(), entry)

    @rule(vector=vectors, k=st.integers(1, 12), exact=st.booleans())
    def search(self, vector: list[int], k: int, exact: bool) -> None:
        found = self.client.search(
            self.library, vector=vector, k=k, exact=exact, min_cursor=self.cursor
        )["results"]
        scores = self.scores(vector)
        best = sorted(scores.values(), reverse=True)[:k]
        given = [hit["score"] for hit in found]
        assert [hit["rank"] for hit in found] == list(range(1, len(found) + 1))
        assert len({hit["chunk_id"] for hit in found}) == len(found)
        for hit in found:
            assert hit["chunk_id"] in scores, "found what is not there"
            assert hit["score"] == pytest.approx(scores[hit["chunk_id"]], abs=TOLERANCE)
            entry = self.documents[hit["document_id"]]
            ordinal = int(hit["chunk_id"].rpartition("#")[2])
            assert hit["text"] == entry.body["chunks"][ordinal]["text"]
            assert hit["metadata"] == entry.body["metadata"]
        assert given == sorted(given, reverse=True)
        if exact:
            assert given == pytest.approx(best, abs=TOLERANCE)
        elif best:
            right = sum(score >= best[-1] - TOLERANCE for score in given)
            assert right >= RECALL_FLOOR * len(best) - 1

    def scores(self, vector: list[int]) -> dict[str, float]:
        """Every chunk's score, from the definitions."""
        if not self.documents:
            return {}
        names = [
            f"{id}#{n}"
            for id, entry in self.documents.items()
            for n in range(len(entry.body["chunks"]))
        ]
        matrix: NDArray[np.float64] = np.array(
            [c["vector"] for entry in self.documents.values() for c in entry.body["chunks"]], float
        )
        query = np.array(vector, float)
        if self.metric == "cosine":
            result = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
        elif self.metric == "dot":
            result = matrix @ query
        else:
            result = 1 / (1 + np.linalg.norm(matrix - query, axis=1))
        return dict(zip(names, result.tolist(), strict=True))

    # ── Listening ───────────────────────────────────────────────────────────────────────────────

    @rule(target=subscriptions)
    def subscribe(self) -> Subscription:
        return self.bootstrapped()

    @rule(target=subscriptions)
    def subscribe_to_several(self) -> Any:
        return multiple(self.bootstrapped(), self.bootstrapped())

    def bootstrapped(self) -> Subscription:
        """Begin from an export: its documents, then what comes after its cursor."""
        records = self.client.export(self.library)
        summary = records[-1]
        versions = {r["id"]: r["version"] for r in records if r["type"] == "document"}
        assert versions == {id: entry.version for id, entry in self.documents.items()}
        return Subscription(summary["cursor"], len(self.told), versions)

    @rule(subscription=subscriptions, count=st.integers(1, 40), paged=st.booleans())
    def listen_and_drop(self, subscription: Subscription, count: int, paged: bool) -> None:
        """Resume, hear at most `count` events, drop the connection."""
        pending = self.told[subscription.seen :]
        trimmed = invariants.position(self.client.statistics()["earliest"])
        if invariants.position(subscription.cursor) < trimmed:
            self.expired(subscription)
            return
        wanted = pending[:count]
        wish: Json = {"types": DOCUMENT_EVENTS}
        if paged:
            page = self.client.page(
                library_id=self.library, after=subscription.cursor, limit=count, **wish
            )
            heard = page["events"]
            assert len(heard) == len(wanted)
            subscription.cursor = page["cursor"]
        elif wanted:
            with self.client.events(
                library=self.library, last_id=subscription.cursor, **wish
            ) as events:
                heard = events.take(len(wanted))
                subscription.cursor = events.last_id or subscription.cursor
        else:
            heard = []
        for event, told in zip(heard, wanted, strict=True):
            data = event["data"]
            assert (event["id"], event["type"]) == (told.cursor, told.kind)
            assert (data["document_id"], data["version"]) == (told.id, told.version)
            if told.kind == "document.deleted":
                del subscription.versions[told.id]
            else:
                subscription.versions[told.id] = told.version
        subscription.seen += len(wanted)
        if subscription.seen == len(self.told):
            now = {id: entry.version for id, entry in self.documents.items()}
            assert subscription.versions == now, "what was heard is not what is there"

    def expired(self, subscription: Subscription) -> None:
        """The log was trimmed past the reader: it is told so, and begins anew."""
        with self.client.events(library=self.library, last_id=subscription.cursor) as events:
            reset = next(events)
            assert (reset.event, reset.data["code"]) == ("reset", "cursor_expired")
        params = {"after": subscription.cursor}
        assert self.client.http.get("/v1/events", params=params).status_code == 410
        anew = self.bootstrapped()
        subscription.cursor, subscription.seen = anew.cursor, anew.seen
        subscription.versions = anew.versions

    # ── What happens to servers ─────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.trims < 2 * self.ends_at_most)
    @rule()
    def trim(self) -> None:
        """Make the log so long that everything up to now is trimmed."""
        self.trims += 1
        noise = self.client.create_library(embedder="none", dimension=1)["id"]
        lines = ({"id": f"n{n % 5}", "chunks": [{"vector": [n + 1]}]} for n in range(1005))
        head = invariants.position(self.client.statistics()["head"])
        self.client.stream(noise, lines, response="summary")
        self.client.http.delete(f"/v1/libraries/{noise}")
        eventually(
            lambda: invariants.position(self.client.statistics()["earliest"]) >= head,
            "the log to be trimmed",
        )

    @precondition(lambda self: self.ends < self.ends_at_most)
    @rule()
    def restart(self) -> None:
        self.ends += 1
        self.server.restart()

    @precondition(lambda self: self.ends < self.ends_at_most)
    @rule()
    def kill(self) -> None:
        self.ends += 1
        self.server.kill()
        self.server.start()

    @precondition(lambda self: self.ends < self.ends_at_most)
    @rule(batch=st.lists(bodies, min_size=1, max_size=10), after=st.integers(1, 300))
    def kill_in_a_stream(self, batch: list[Json], after: int) -> None:
        """Cut a stream of new documents off; what was acknowledged is a part of what is there."""
        self.ends += 1
        turn = next(self.numbers)
        endless = (
            {"id": f"cut{turn}-{n}", **body} for n, body in enumerate(itertools.cycle(batch))
        )
        lines = list(itertools.islice(endless, 600))
        start = self.cursor
        with Pump(self.server.url, self.library, lines, piece=20) as pump:
            eventually(lambda: len(pump.promised) >= after, f"{after} acknowledgements")
            self.server.kill()
            pump.join()
        self.server.start()
        # Document events after the last known write are a prefix of the stream.
        events = self.client.all_events(
            library_id=self.library, types=DOCUMENT_EVENTS, after=start, limit=200
        )
        assert len(events) >= len(pump.promised)
        for line, event in zip(lines, events, strict=False):
            id = line["id"]
            assert (event["type"], event["data"]["document_id"]) == ("document.added", id)
            body = {key: value for key, value in line.items() if key != "id"}
            self.documents[id] = Entry(body, 1, event["id"])
            self.told.append(Told(event["id"], "document.added", id, 1))
            self.cursor = event["id"]
        assert pump.promised <= self.documents.keys()
        # Most of them go again: later searches are to stay among few.
        for line in lines[10 : len(events)]:
            self.delete(line["id"])

    def teardown(self) -> None:
        if not hasattr(self, "library") or not self.server.running:
            return
        stored = self.client.documents(self.library, include="chunks")
        assert stored.keys() == self.documents.keys()
        for id, document in stored.items():
            assert same_document(document, self.documents[id])
        invariants.every_document_is_found(self.client, self.library, {"vector": [1] * DIMENSION})
        answer = self.client.http.delete(f"/v1/libraries/{self.library}")
        assert answer.status_code == 200

    def path(self, id: str) -> str:
        quoted = "".join(f"%{byte:02X}" for byte in id.encode())
        return f"/v1/libraries/{self.library}/documents/{quoted}"


def alike(one: Json, other: Json) -> bool:
    """Whether a put of `other` over `one` changes nothing."""
    return (one["chunks"], one["metadata"], one.get("title")) == (
        other["chunks"],
        other["metadata"],
        other.get("title"),
    )


def same_document(document: Json, entry: Entry) -> bool:
    chunks = [chunk["text"] for chunk in document["chunks"]]
    body = entry.body
    assert document["version"] == entry.version
    assert document["cursor"] == entry.cursor
    assert document["metadata"] == body["metadata"]
    assert document.get("title") == body.get("title")
    assert chunks == [chunk["text"] for chunk in body["chunks"]]
    return True


def live(serve: Serve, *, lives: int, steps: int, ends_at_most: int, repeatable: bool) -> None:
    Life.server = serve(**TINY)
    Life.ends_at_most = ends_at_most
    with Client(Life.server.url) as client:
        Life.client = client
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=lives,
                stateful_step_count=steps,
                deadline=None,
                derandomize=repeatable,
                database=None,
                # To shrink means to live again, seconds each, and a race would not come again.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
        Life.server.stop()
    invariants.folder_is_sound(Life.server.data, SearchSettings(seal_rows=16, exact_rows=0))


def test_a_library_lives_as_the_model_says(serve: Serve) -> None:
    live(serve, lives=8, steps=50, ends_at_most=1, repeatable=True)


@pytest.mark.soak
def test_a_library_lives_long_as_the_model_says(serve: Serve) -> None:
    live(serve, lives=60, steps=100, ends_at_most=5, repeatable=False)
