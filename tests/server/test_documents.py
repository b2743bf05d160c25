"""Single documents over HTTP: every route, field, form and condition."""

from __future__ import annotations

import re

import pytest
from server.client import Client, answer
from server.documents import at, code, post

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


# ── Adding ──────────────────────────────────────────────────────────────────────────────────────


def test_post_answers_201_with_every_field(client: Client, library: str) -> None:
    response = post(client, library, {"id": "a", "text": "The moon pulls the sea."})
    assert response.status_code == 201
    body = response.json()
    assert list(body) == [
        "id",
        "status",
        "version",
        "num_chunks",
        "created_at",
        "updated_at",
        "cursor",
    ]
    assert (body["id"], body["status"], body["version"], body["num_chunks"]) == (
        "a",
        "created",
        1,
        1,
    )
    assert TIME.fullmatch(body["created_at"])
    assert body["created_at"] == body["updated_at"]
    assert response.headers["etag"] == '"1"'
    (event,) = [e for e in client.all_events(library_id=library) if e["type"] == "document.added"]
    assert event["id"] == body["cursor"]


def test_an_id_is_a_uuid7_when_none_is_given(client: Client, library: str) -> None:
    first = answer(post(client, library, {"text": "a"}))["id"]
    second = answer(post(client, library, {"text": "a"}))["id"]
    assert UUID7.fullmatch(first)
    assert first < second


def test_post_of_a_known_id_is_unchanged_or_a_conflict(client: Client, library: str) -> None:
    document = {"id": "a", "title": "t", "text": "x", "metadata": {"n": 1}}
    first = answer(post(client, library, document))
    again = post(client, library, document)
    assert again.status_code == 200
    assert again.json() == {**first, "status": "unchanged"}
    for other in ({"text": "y"}, {"title": "u"}, {"metadata": {"n": 2}}, {"title": None}):
        assert code(post(client, library, {**document, **other})) == (409, "document_exists")
    assert client.get(library, "a") == {
        "id": "a",
        "title": "t",
        "text": "x",
        "metadata": {"n": 1},
        "version": 1,
        "num_chunks": 1,
        "created_at": first["created_at"],
        "updated_at": first["updated_at"],
        "cursor": first["cursor"],
    }


@pytest.mark.parametrize("wait", ["durable", "searchable"])
def test_wait_is_taken_by_every_write(client: Client, library: str, wait: str) -> None:
    params = {"wait": wait}
    assert post(client, library, {"id": "a", "text": "x"}, wait=wait).status_code == 201
    path = at(library, "a")
    assert client.http.put(path, json={"text": "y"}, params=params).status_code == 200
    assert client.http.patch(path, json={"title": "t"}, params=params).status_code == 200
    batch = {"documents": [{"id": "b", "text": "x"}]}
    assert client.http.post(f"{at(library)}/batch", json=batch, params=params).status_code == 200
    assert client.http.delete(path, params=params).status_code == 200
    assert client.get(library, "a") is None
    assert client.get(library, "b") is not None


def test_an_unknown_wait_is_refused(client: Client, library: str) -> None:
    response = post(client, library, {"text": "x"}, wait="never")
    assert code(response) == (422, "invalid_parameter")
    assert response.json()["parameter"] == "wait"


# ── Forms and fields ────────────────────────────────────────────────────────────────────────────


def test_text_comes_back_as_it_was(client: Client, library: str) -> None:
    text = "  Zeile eins.\r\n\tZwei 😀 — drei.  \n"
    client.put(library, "a", {"text": text})
    found = client.get(library, "a")
    assert found is not None
    assert found["text"] == text
    assert "chunks" not in found
    assert "texts" not in found
    assert "title" not in found


def test_long_text_is_chunked_with_offsets(client: Client) -> None:
    library = client.create_library(chunk_size=60, chunk_overlap=15)["id"]
    text = "Ebbe und Flut 🌊 kommen und gehen. " * 12
    written = client.put(library, "a", {"text": text})
    assert written["num_chunks"] > 5
    found = client.get(library, "a", include="chunks")
    assert found is not None
    assert found["text"] == text
    assert len(found["chunks"]) == written["num_chunks"]
    for ordinal, chunk in enumerate(found["chunks"]):
        assert chunk["id"] == f"a#{ordinal}"
        assert chunk["ordinal"] == ordinal
        assert chunk["text"] == text[chunk["start"] : chunk["end"]]
        assert 0 < len(chunk["text"]) <= 60
        assert "vector" not in chunk
    assert {word for c in found["chunks"] for word in c["text"].split()} == set(text.split())


def test_texts_are_a_chunk_each(client: Client, library: str) -> None:
    assert client.put(library, "a", {"texts": ["one", "two", "one"]})["num_chunks"] == 3
    found = client.get(library, "a", include="chunks")
    assert found is not None
    assert found["texts"] == ["one", "two", "one"]
    assert [chunk["text"] for chunk in found["chunks"]] == ["one", "two", "one"]
    assert "text" not in found


def test_chunks_come_back_with_their_vectors(client: Client) -> None:
    library = client.create_library(embedder="none", dimension=3)["id"]
    chunks = [
        {"text": "one", "vector": [1, 0, 0], "metadata": {"page": 1}},
        {"vector": [0.25, -2, 3e-5]},
    ]
    client.put(library, "a", {"chunks": chunks})
    found = client.get(library, "a", include="vectors")
    assert found is not None
    first, second = found["chunks"]
    assert first == {
        "id": "a#0",
        "ordinal": 0,
        "text": "one",
        "metadata": {"page": 1},
        "vector": [1, 0, 0],
    }
    assert second["text"] is None
    assert second["vector"] == pytest.approx([0.25, -2, 3e-5])
    plain = client.get(library, "a")
    assert plain is not None
    assert [set(chunk) for chunk in plain["chunks"]] == [
        {"id", "ordinal", "text", "metadata"},
        {"id", "ordinal", "text"},
    ]


def test_a_static_library_takes_vectors_too(client: Client, library: str) -> None:
    vector = [1.0] + [0.0] * 255
    client.put(library, "a", {"chunks": [{"text": "x", "vector": vector}, {"text": "the sea"}]})
    found = client.get(library, "a", include="vectors")
    assert found is not None
    assert found["chunks"][0]["vector"] == vector
    assert len(found["chunks"][1]["vector"]) == 256
    (best,) = client.search(library, vector=vector, k=1)["results"]
    assert best["chunk_id"] == "a#0"


def test_common_fields_are_kept_as_metadata(client: Client, library: str) -> None:
    client.put(
        library,
        "a",
        {
            "text": "x",
            "author": "Ada",
            "document_type": "note",
            "source_url": "https://example.org/1",
            "tags": ["sea", "moon"],
            "metadata": {"year": 1843, "author": "other", "deep": {"list": [1, None, {"a": 0.5}]}},
        },
    )
    found = client.get(library, "a")
    assert found is not None
    assert found["metadata"] == {
        "author": "Ada",
        "document_type": "note",
        "source_url": "https://example.org/1",
        "tags": ["sea", "moon"],
        "year": 1843,
        "deep": {"list": [1, None, {"a": 0.5}]},
    }


def test_an_unknown_include_is_refused(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x"})
    response = client.http.get(at(library, "a"), params={"include": "chunks,nonsense"})
    assert code(response) == (422, "invalid_query")


# ── Replacing, conditions ───────────────────────────────────────────────────────────────────────


def test_put_creates_updates_and_notices_what_is_unchanged(client: Client, library: str) -> None:
    path = at(library, "a")
    created = client.http.put(path, json={"text": "one"})
    assert (created.status_code, created.json()["status"]) == (201, "created")
    assert created.headers["etag"] == '"1"'
    same = client.http.put(path, json={"text": "one"})
    assert (same.status_code, same.json()["status"]) == (200, "unchanged")
    assert same.json()["cursor"] == created.json()["cursor"]
    updated = client.http.put(path, json={"text": "two"})
    assert (updated.status_code, updated.json()["status"]) == (200, "updated")
    assert updated.headers["etag"] == '"2"'
    assert updated.json()["created_at"] == created.json()["created_at"]
    assert updated.json()["updated_at"] > created.json()["updated_at"]
    events = client.all_events(library_id=library, types="document.*")
    assert [event["type"] for event in events] == ["document.added", "document.updated"]


def test_a_put_replaces_the_whole_document(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x", "title": "t", "metadata": {"n": 1}, "tags": ["y"]})
    client.put(library, "a", {"texts": ["z"]})
    found = client.get(library, "a")
    assert found is not None
    assert "title" not in found
    assert found["metadata"] == {}
    assert found["texts"] == ["z"]


def test_the_same_words_in_another_form_are_a_change(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x"})
    assert client.put(library, "a", {"texts": ["x"]})["status"] == "updated"
    assert client.put(library, "a", {"chunks": [{"text": "x"}]})["status"] == "updated"
    assert client.put(library, "a", {"text": "x"})["status"] == "updated"


def test_key_order_and_spacing_are_no_change(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x", "metadata": {"a": 1, "b": {"c": 2, "d": 3}}})
    body = b'{ "metadata":{"b":{"d":3,"c":2},"a":1},"text":"\\u0078" }'
    response = client.http.put(at(library, "a"), content=body)
    assert response.json()["status"] == "unchanged"


def test_if_match_holds_back_a_lost_update(client: Client, library: str) -> None:
    path = at(library, "a")
    client.put(library, "a", {"text": "one"})
    for etag in ('"2"', '"0"', "7"):
        response = client.http.put(path, json={"text": "two"}, headers={"if-match": etag})
        assert code(response) == (412, "version_mismatch")
        assert response.json()["version"] == 1
    right = client.http.put(path, json={"text": "two"}, headers={"if-match": '"1"'})
    assert right.json()["version"] == 2
    stale = {"if-match": '"1"'}
    assert code(client.http.patch(path, json={"title": "t"}, headers=stale))[0] == 412
    assert code(client.http.delete(path, headers=stale))[0] == 412
    fresh = {"if-match": '"2"'}
    assert client.http.patch(path, json={"title": "t"}, headers=fresh).headers["etag"] == '"3"'
    assert client.http.delete(path, headers={"if-match": 'W/"3"'}).status_code == 200
    # What does not exist is at no version.
    missing = client.http.put(path, json={"text": "x"}, headers={"if-match": '"3"'})
    assert code(missing) == (412, "version_mismatch")
    assert client.get(library, "a") is None


@pytest.mark.parametrize("etag", ["", "abc", '"', '"1', '"1","2"', '"-1"', '"1.0"', "1" * 30])
def test_an_if_match_that_is_no_version_is_refused(client: Client, library: str, etag: str) -> None:
    client.put(library, "a", {"text": "x"})
    response = client.http.put(at(library, "a"), json={"text": "y"}, headers={"if-match": etag})
    assert response.status_code in (412, 422), response.text
    found = client.get(library, "a")
    assert found is not None
    assert found["version"] == 1


def test_if_none_match_only_creates(client: Client, library: str) -> None:
    path, star = at(library, "a"), {"if-none-match": "*"}
    assert client.http.put(path, json={"text": "x"}, headers=star).status_code == 201
    again = client.http.put(path, json={"text": "x"}, headers=star)
    assert (again.status_code, again.json()["status"]) == (200, "unchanged")
    other = client.http.put(path, json={"text": "y"}, headers=star)
    assert code(other) == (409, "document_exists")
    assert other.json()["version"] == 1
    wrong = client.http.put(path, json={"text": "y"}, headers={"if-none-match": '"1"'})
    assert code(wrong) == (422, "invalid_input")


# ── Reading and deleting ────────────────────────────────────────────────────────────────────────


def test_get_and_head_carry_the_version(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x"})
    client.put(library, "a", {"text": "y"})
    got, head = client.http.get(at(library, "a")), client.http.head(at(library, "a"))
    assert got.headers["etag"] == head.headers["etag"] == '"2"'
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))


def test_delete_answers_id_and_cursor_and_is_told(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x", "metadata": {"n": 1}})
    gone = client.delete(library, "a")
    assert set(gone) == {"id", "cursor"}
    (event,) = client.all_events(library_id=library, types="document.deleted")
    assert event["id"] == gone["cursor"]
    assert event["data"]["metadata"] == {"n": 1}
    assert client.search(library, "x")["results"] == []
    for method in ("GET", "DELETE", "HEAD"):
        assert client.http.request(method, at(library, "a")).status_code == 404
    assert code(client.http.patch(at(library, "a"), json={})) == (404, "document_not_found")


def test_a_deleted_id_begins_anew(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x"})
    client.put(library, "a", {"text": "y"})
    client.delete(library, "a")
    again = client.put(library, "a", {"text": "z"})
    assert (again["status"], again["version"]) == ("created", 1)


def test_documents_are_listed_in_pages_in_order_of_insertion(client: Client, library: str) -> None:
    ids = [f"d{number}" for number in range(25)]
    client.stream(library, [{"id": id, "text": id, "title": id.upper()} for id in ids])
    client.put(library, "d3", {"text": "changed"})
    listed, after = [], None
    while True:
        params = {"limit": 10} | ({"after": after} if after else {})
        page = answer(client.http.get(at(library), params=params))
        assert set(page) == {"documents", "next"}
        listed += page["documents"]
        after = page["next"]
        if after is None:
            break
        assert len(page["documents"]) == 10
    assert [document["id"] for document in listed] == ids
    assert not {"text", "texts", "chunks"} & listed[0].keys()
    full = answer(client.http.get(at(library), params={"limit": 4, "include": "text,vectors"}))
    assert full["documents"][3]["text"] == "changed"
    assert len(full["documents"][3]["chunks"][0]["vector"]) == 256


@pytest.mark.parametrize("after", ["", "x", "cm93OnhA", "a" * 1_000, "é", "cm93Oi0x", "="])
def test_a_wrong_page_token_is_refused(client: Client, library: str, after: str) -> None:
    response = client.http.get(at(library), params={"after": after})
    assert code(response) == (400, "invalid_cursor")


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "9" * 30])
def test_a_wrong_limit_is_refused(client: Client, library: str, limit: str) -> None:
    response = client.http.get(at(library), params={"limit": limit})
    assert code(response) == (422, "invalid_parameter")
