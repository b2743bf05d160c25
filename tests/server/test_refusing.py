"""`on_embedding_failure=refuse` over HTTP: nothing is pending, and each refusal says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from embed.provider import FakeProvider, refuse
from server.client import Client, Json
from server.conftest import Serve
from server.running import eventually

EMBEDDER: Json = {"embedder": "openai:fake", "dimension": 8}
QUICK = {"embed__retries": 0, "embed__breaker_failures": 1_000, "embed__pending_backoff": 0.05}
REFUSE = {"on_embedding_failure": "refuse"}


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def client(fake: FakeProvider, serve: Serve) -> Iterator[Client]:
    with Client(serve(embed__openai_base_url=fake.url, **QUICK).url) as client:
        yield client


def counts(client: Client, library: str) -> tuple[int, int]:
    found = client.http.get(f"/v1/libraries/{library}").json()
    return found["documents"], found["pending"]


def test_a_document_is_refused_with_the_providers_error(client: Client, fake: FakeProvider) -> None:
    library = client.create_library(**EMBEDDER)["id"]
    path = f"/v1/libraries/{library}/documents"
    fake.every_step = refuse(500)
    for answer in (
        client.http.post(path, json={"id": "a", "text": "x"}, params=REFUSE),
        client.http.put(f"{path}/a", json={"text": "x"}, params=REFUSE),
    ):
        assert answer.status_code == 503
        assert answer.json()["code"] == "embedder_unavailable"
        assert answer.json()["retryable"] is True
    assert counts(client, library) == (0, 0)
    assert client.all_events(library_id=library, types="document.*") == []
    # What needs no embedder is taken, and so is the same document as ever.
    sent = {"chunks": [{"text": "x", "vector": [1.0] * 8}]}
    assert client.http.put(f"{path}/sent", json=sent, params=REFUSE).status_code == 201
    assert client.http.put(f"{path}/a", json={"text": "x"}).status_code == 201
    assert counts(client, library) == (2, 1)
    fake.every_step = None
    assert client.http.post(f"{path}/embed").status_code == 202
    # An attempt that failed may still have been under way; one that succeeds ends the rest.
    eventually(lambda: counts(client, library) == (2, 0), "the embedder to be in use again")
    answer = client.http.put(f"{path}/b", json={"text": "y"}, params=REFUSE)
    assert answer.status_code == 201
    assert "embedding" not in answer.json()


def test_in_a_batch_only_the_refused_document_fails(client: Client) -> None:
    library = client.create_library(**EMBEDDER)["id"]
    documents = [{"id": f"d{n}", "text": "poison" if n == 2 else f"text {n}"} for n in range(5)]
    answer = client.http.post(
        f"/v1/libraries/{library}/documents/batch", json={"documents": documents}, params=REFUSE
    ).json()
    assert (answer["created"], answer["failed"]) == (4, 1)
    failed = answer["results"][2]
    assert (failed["index"], failed["id"], failed["status"]) == (2, "d2", "failed")
    assert failed["error"]["code"] == "embedder_failed"
    assert failed["error"]["retryable"] is False
    assert counts(client, library) == (4, 0)
    poison = client.http.put(
        f"/v1/libraries/{library}/documents/p", json={"text": "poison"}, params=REFUSE
    )
    assert (poison.status_code, poison.json()["code"]) == (502, "embedder_failed")


def test_in_a_stream_refused_lines_fail_and_the_rest_goes_in(
    client: Client, fake: FakeProvider
) -> None:
    library = client.create_library(**EMBEDDER)["id"]
    bad = {70, 400, 401, 900}
    documents: list[Json] = [
        {"id": f"d{n}", "text": "poison" if n in bad else f"text {n}"} for n in range(1_000)
    ]
    *records, summary = client.stream(library, documents, **REFUSE)
    failed = {r["id"]: r["error"]["code"] for r in records if r.get("status") == "failed"}
    assert failed == {f"d{n}": "embedder_failed" for n in bad}
    assert (summary["created"], summary["failed"]) == (996, 4)
    assert "pending" not in summary
    assert counts(client, library) == (996, 0)

    fake.every_step = refuse(503)
    *records, summary = client.stream(library, [{"id": "e", "text": "x"}], **REFUSE)
    assert records[0]["error"]["code"] == "embedder_unavailable"
    assert (summary["created"], summary["failed"]) == (0, 1)


def test_another_word_is_refused(client: Client) -> None:
    library = client.create_library(**EMBEDDER)["id"]
    answer = client.http.post(
        f"/v1/libraries/{library}/documents",
        json={"text": "x"},
        params={"on_embedding_failure": "drop"},
    )
    assert answer.status_code == 422
    assert answer.json()["parameter"] == "on_embedding_failure"
