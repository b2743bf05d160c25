"""A failing provider loses nothing: documents are there at once and embedded in the end.

The server is a real one, and so is the way to the provider: the fake is asked over HTTP.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from embed.provider import (
    FakeProvider,
    Handler,
    Held,
    Seen,
    Step,
    cut,
    drop,
    one_too_few,
    one_too_wide,
    refuse,
    say,
    vectors,
)
from invariants import batches_are_ended, folder_is_sound, log_tells_what_is_there
from server.client import Client, Json
from server.conftest import Serve
from server.running import Server, eventually

QUICK = {
    "embed__retries": 0,
    "embed__breaker_failures": 1_000,
    "embed__pending_backoff": 0.05,
    "embed__pending_backoff_max": 0.2,
}
EMBEDDER: Json = {"embedder": "openai:fake", "dimension": 8}


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def server(fake: FakeProvider, serve: Serve) -> Server:
    return serve(embed__openai_base_url=fake.url, **QUICK)


def pending(client: Client, library: str) -> list[Json]:
    """All that is listed as pending, page by page."""
    found: list[Json] = []
    after: str | None = None
    while True:
        page = client.http.get(
            f"/v1/libraries/{library}/documents",
            params={
                "status": "pending_embedding",
                "limit": 2,
                **({"after": after} if after else {}),
            },
        ).json()
        found += page["documents"]
        after = page["next"]
        if after is None:
            return found


def all_embedded(client: Client, library: str, said: Any = str) -> None:
    def none_pending() -> bool:
        return bool(client.http.get(f"/v1/libraries/{library}").json()["pending"] == 0)

    eventually(none_pending, "all to be embedded", said=said)


def embedded_events(client: Client, library: str) -> Counter[str]:
    events = client.all_events(library_id=library, types="document.embedded")
    return Counter(event["data"]["document_id"] for event in events)


def found(client: Client, library: str, text: str) -> list[str]:
    answer = client.http.post(
        f"/v1/libraries/{library}/search", json={"query": text, "mode": "vector"}
    )
    assert answer.status_code == 200, answer.text
    return [hit["document_id"] for hit in answer.json()["results"]]


def test_a_document_is_stored_at_once_and_embedded_when_the_provider_heals(
    server: Server, fake: FakeProvider
) -> None:
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.every_step = refuse(500)
        answer = client.http.put(
            f"/v1/libraries/{library}/documents/a", json={"text": "apples", "title": "A"}
        )
        assert answer.status_code == 201
        waiting = answer.json()["embedding"]
        assert waiting["status"] == "pending_embedding"
        assert waiting["error"]["code"] == "embedder_unavailable"
        assert waiting["error"]["retryable"] is True
        read = client.http.get(f"/v1/libraries/{library}/documents/a").json()
        assert read["text"] == "apples"
        assert read["embedding"]["since"] == waiting["since"]
        assert [each["id"] for each in pending(client, library)] == ["a"]
        assert client.http.get(f"/v1/libraries/{library}").json()["pending"] == 1
        assert client.statistics()["pending_embeddings"] == 1
        eventually(
            lambda: pending(client, library)[0]["embedding"]["attempts"] > 2, "more attempts"
        )
        (added,) = client.all_events(library_id=library, types="document.*")
        assert (added["type"], added["data"]["status"]) == ("document.added", "pending_embedding")

        fake.every_step = None
        all_embedded(client, library, server.said)
        assert pending(client, library) == []
        assert embedded_events(client, library) == {"a": 1}
        read = client.http.get(f"/v1/libraries/{library}/documents/a").json()
        assert read["version"] == 1
        assert "embedding" not in read
        assert found(client, library, "apples") == ["a"]
        assert client.statistics()["pending_embeddings"] == 0
        log_tells_what_is_there(client, library)


def test_a_stream_goes_on_while_its_provider_fails(server: Server, fake: FakeProvider) -> None:
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.every_step = refuse(503)
        documents = [{"id": f"d{n}", "texts": [f"text {n}", f"more {n}"]} for n in range(1_200)]
        *records, summary = client.stream(library, documents)
        results = [record for record in records if record["type"] == "result"]
        assert [record["status"] for record in results] == ["created"] * 1_200
        assert {record["embedding"] for record in results} == {"pending_embedding"}
        assert (summary["created"], summary["failed"], summary["pending"]) == (1_200, 0, 1_200)
        exported = client.documents(library)
        assert len(exported) == 1_200

        fake.every_step = None
        all_embedded(client, library, server.said)
        assert embedded_events(client, library) == dict.fromkeys(exported, 1)
        (completed,) = client.all_events(library_id=library, types="batch.completed")
        assert completed["data"]["pending"] == 1_200
        assert "d7" in found(client, library, "more 7")
        log_tells_what_is_there(client, library)
        batches_are_ended(client)


def test_what_is_changed_or_deleted_while_pending_comes_out_right(
    server: Server, fake: FakeProvider
) -> None:
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.every_step = refuse(503)
        for id in ("kept", "patched", "replaced", "deleted"):
            client.put(library, id, {"text": f"old {id}"})
        held = Held()
        fake.every_step = held
        # The old texts are on their way to be embedded while the documents change.
        client.http.post(f"/v1/libraries/{library}/documents/embed").raise_for_status()
        assert held.reached.acquire(timeout=20)
        client.http.patch(f"/v1/libraries/{library}/documents/patched", json={"title": "T"})
        client.http.delete(f"/v1/libraries/{library}/documents/deleted").raise_for_status()
        writer = threading.Thread(
            target=client.put, args=(library, "replaced", {"text": "new words"})
        )
        writer.start()
        held.let.set()
        writer.join(20)
        all_embedded(client, library, server.said)
        log_tells_what_is_there(client, library)
        told = embedded_events(client, library)
        assert (told["kept"], told["patched"]) == (1, 1)
        assert found(client, library, "old kept")[0] == "kept"
        assert found(client, library, "new words")[0] == "replaced"
        assert set(found(client, library, "old deleted")) == {"kept", "patched", "replaced"}
        patched = client.http.get(f"/v1/libraries/{library}/documents/patched").json()
        assert (patched["title"], patched["version"]) == ("T", 2)


def test_a_refused_document_holds_up_no_other(server: Server, fake: FakeProvider) -> None:
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        documents = [{"id": f"d{n}", "text": f"text {n}"} for n in range(40)]
        documents[17]["text"] = "poison"
        client.stream(library, documents)
        eventually(
            lambda: [each["id"] for each in pending(client, library)] == ["d17"],
            "only the poison to be left",
            said=server.said,
        )
        (left,) = pending(client, library)
        assert left["embedding"]["error"]["code"] == "embedder_failed"
        assert left["embedding"]["error"]["retryable"] is False
        assert embedded_events(client, library)["d17"] == 0
        asked = len(fake.calls)
        answer = client.http.post(f"/v1/libraries/{library}/documents/embed")
        assert (answer.status_code, answer.json()) == (202, {"pending": 1})
        eventually(lambda: len(fake.calls) > asked, "the refused one to be tried")
        client.put(library, "d17", {"text": "honey"})
        all_embedded(client, library, server.said)
        log_tells_what_is_there(client, library)


def test_an_unchanged_put_of_a_pending_document_is_tried_again(
    fake: FakeProvider, serve: Serve
) -> None:
    server = serve(
        embed__openai_base_url=fake.url,
        **{**QUICK, "embed__pending_backoff": 3_600, "embed__pending_backoff_max": 3_600},
    )
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.every_step = refuse(503)
        client.put(library, "a", {"text": "apples"})
        fake.every_step = None
        # The embedder is left alone for the hour, by writes for half a minute: ask for it.
        answer = client.put(library, "a", {"text": "apples"})
        assert (answer["status"], answer["embedding"]["status"]) == (
            "unchanged",
            "pending_embedding",
        )
        client.http.post(f"/v1/libraries/{library}/documents/embed").raise_for_status()
        all_embedded(client, library, server.said)
        answer = client.put(library, "a", {"text": "apples"})
        assert answer["status"] == "unchanged"
        assert "embedding" not in answer
        assert embedded_events(client, library) == {"a": 1}


def test_pending_documents_survive_kills_and_are_embedded_once(
    fake: FakeProvider, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(embed__openai_base_url=fake.url, **QUICK)
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.stop()
        client.stream(library, [{"id": f"d{n}", "text": f"text {n}"} for n in range(300)])
        assert client.http.get(f"/v1/libraries/{library}").json()["pending"] == 300
        server.kill()
        fake.start()
        # Killed with vectors in hand, once before any was written and once in the middle.
        for failpoint in ("embedding.before_write", "embedding.before_write:2"):
            server.failpoints = failpoint
            server.start(ready=False)
            server.wait_killed()
        server.start()
        all_embedded(client, library, server.said)
        assert set(embedded_events(client, library).values()) == {1}
        assert len(embedded_events(client, library)) == 300
        log_tells_what_is_there(client, library)
        assert "d42" in found(client, library, "text 42")
    server.stop()
    monkeypatch.setenv("HEADWATER_EMBED__OPENAI_BASE_URL", fake.url)
    folder_is_sound(server.data)


class Slow:
    """Answers documents after `seconds` (None: never), or when it is told to end."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.over = threading.Event()
        self.calls = 0
        self.answered = 0

    def __call__(self, handler: Handler, seen: Seen) -> bool:
        self.calls += 1
        self.over.wait(self.seconds)
        self.answered += 1
        return False


def test_a_provider_that_takes_minutes_slows_nobody_else(fake: FakeProvider, serve: Serve) -> None:
    """What shared a queue with it would wait for ten minutes."""
    patient = dict.fromkeys(
        ("embed__write_wait", "embed__timeout", "embed__document_deadline"), 600
    )
    server = serve(embed__openai_base_url=fake.url, **QUICK, **patient)
    slow = Slow(None)
    with Client(server.url) as client, Client(server.url, timeout=600) as other:
        quick = client.create_library()["id"]
        library = client.create_library(**EMBEDDER)["id"]

        def median_ms(count: int = 60) -> float:
            took = []
            for n in range(count):
                began = time.perf_counter()
                client.put(quick, f"q{n}", {"text": f"quick {n} {time.time_ns()}"})
                found_now = client.http.post(
                    f"/v1/libraries/{quick}/search", json={"query": "quick", "mode": "vector"}
                )
                assert found_now.status_code == 200
                took.append(time.perf_counter() - began)
            return statistics.median(took) * 1000

        median_ms(20)
        alone = median_ms()
        fake.every_step = slow
        streamed: list[list[Json]] = []
        stream = threading.Thread(
            target=lambda: streamed.append(
                other.stream(library, [{"id": f"d{n}", "text": f"text {n}"} for n in range(2_000)])
            )
        )
        stream.start()
        try:
            eventually(lambda: slow.calls, "the slow provider to be asked")
            beside = median_ms()
            assert (streamed, slow.answered) == ([], 0), "it was not slow all the while"
            # The middle one of sixty, and far from what it takes: a busy machine slows both.
            assert beside < alone + 500
        finally:
            fake.every_step = None
            slow.over.set()
            stream.join()
        assert (streamed[0][-1]["created"], "pending" in streamed[0][-1]) == (2_000, False)
        log_tells_what_is_there(client, library)


def test_a_stream_ends_before_a_provider_that_takes_minutes_has_answered(
    fake: FakeProvider, serve: Serve
) -> None:
    server = serve(embed__openai_base_url=fake.url, embed__write_wait=1, **QUICK)
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.every_step = slow = Slow(None)
        try:
            *_, summary = client.stream(
                library, [{"id": f"d{n}", "text": f"text {n}"} for n in range(2_000)]
            )
            assert summary["pending"] == 2_000
            assert (slow.calls > 0, slow.answered) == (True, 0)
        finally:
            fake.every_step = None
            slow.over.set()
        all_embedded(client, library, server.said)
        assert len(embedded_events(client, library)) == 2_000


def test_of_two_processes_one_embeds(fake: FakeProvider, serve: Serve) -> None:
    server = serve(embed__openai_base_url=fake.url, workers=2, **QUICK)
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        fake.every_step = refuse(503)
        for n in range(30):
            # A connection each: they are spread over the processes.
            with Client(server.url) as another:
                answer = another.put(library, f"d{n}", {"text": f"text {n}"})
                assert answer["embedding"]["status"] == "pending_embedding"
        fake.every_step = None
        with Client(server.url) as another:
            another.http.post(f"/v1/libraries/{library}/documents/embed").raise_for_status()
        all_embedded(client, library, server.said)
        assert embedded_events(client, library) == {f"d{n}": 1 for n in range(30)}
        log_tells_what_is_there(client, library)


def test_a_pending_document_is_found_by_its_words_alone(server: Server, fake: FakeProvider) -> None:
    with Client(server.url) as client:
        library = client.create_library(**EMBEDDER)["id"]
        client.put(library, "b", {"text": "bananas are yellow"})
        fake.every_step = refuse(503)
        client.put(library, "a", {"text": "apples are red"})
        answer = client.http.post(
            f"/v1/libraries/{library}/search", json={"query": "apples", "mode": "keyword"}
        )
        assert answer.status_code == 200, answer.text
        assert [hit["document_id"] for hit in answer.json()["results"]] == ["a"]
        by_vector = {"vector": [1.0, *[0.0] * 7], "mode": "vector"}
        answer = client.http.post(f"/v1/libraries/{library}/search", json=by_vector)
        assert [hit["document_id"] for hit in answer.json()["results"]] == ["b"]
        fake.every_step = None
        all_embedded(client, library, server.said)
        answer = client.http.post(f"/v1/libraries/{library}/search", json=by_vector)
        assert {hit["document_id"] for hit in answer.json()["results"]} == {"a", "b"}
        answer = client.http.post(
            f"/v1/libraries/{library}/search", json={"query": "apples", "mode": "keyword"}
        )
        assert [hit["document_id"] for hit in answer.json()["results"]] == ["a"]


class Moody:
    """Does one of `moods`, or answers rightly, by chance."""

    def __init__(self, seed: int, moods: list[Step]) -> None:
        self._chance = random.Random(seed)
        self._moods = moods

    def __call__(self, handler: Handler, seen: Seen) -> bool:
        if self._chance.random() < 0.3:
            return False
        return self._chance.choice(self._moods)(handler, seen)


@pytest.mark.parametrize("kind", ["openai", "cohere"])
def test_whatever_a_provider_does_all_is_embedded_rightly_in_the_end(
    fake: FakeProvider, serve: Serve, kind: str
) -> None:
    server = serve(
        embed__openai_base_url=fake.url,
        embed__cohere_base_url=fake.url,
        embed__cohere_api_key="k",
        embed__write_wait=0.5,
        embed__timeout=2,
        embed__backoff=0.01,
        **{**QUICK, "embed__retries": 1},
    )
    chance = random.Random(kind)
    with Client(server.url) as client:
        library = client.create_library(embedder=f"{kind}:fake", dimension=8)["id"]
        bystander = client.create_library()["id"]
        fake.max_inputs = 20
        slow = Slow(0.7)
        moods: list[Step] = [
            refuse(429, retry_after="0"),
            refuse(500),
            refuse(401),
            drop,
            cut,
            one_too_few,
            one_too_wide,
            say(b"{}"),
            slow,
        ]
        fake.every_step = Moody(7, moods)
        stored: dict[str, list[str]] = {}
        for turn in range(5):
            documents = []
            for n in chance.sample(range(150), 80):
                id, texts = f"d{n}", [f"{turn} {n} {part}" for part in range(chance.randint(1, 3))]
                documents.append({"id": id, "texts": texts})
                stored[id] = texts
            *_, summary = client.stream(library, documents)
            assert summary["failed"] == 0
            for id in chance.sample(sorted(stored), 5):
                client.http.delete(f"/v1/libraries/{library}/documents/{id}").raise_for_status()
                del stored[id]
            assert "embedding" not in client.put(bystander, f"b{turn}", {"text": "undisturbed"})
        fake.every_step = None
        slow.over.set()

        def none_left() -> bool:
            # Asked again and again: a refusal that is under way puts its document aside.
            answer = client.http.post(f"/v1/libraries/{library}/documents/embed")
            return bool(answer.json()["pending"] == 0)

        eventually(none_left, "all to be embedded", said=server.said)
        assert embedded_events(client, library), "the provider was too good"
        page = client.http.get(
            f"/v1/libraries/{library}/documents", params={"include": "vectors", "limit": 1_000}
        ).json()
        assert {each["id"]: each["texts"] for each in page["documents"]} == stored
        for each in page["documents"]:
            made = np.array([chunk["vector"] for chunk in each["chunks"]], np.float32)
            np.testing.assert_allclose(made, vectors(each["texts"]), atol=1e-5)
        log_tells_what_is_there(client, library)
        batches_are_ended(client)
