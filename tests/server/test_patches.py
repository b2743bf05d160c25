"""Patches over HTTP: metadata is merged, a title set or taken away, the rest stays."""

from __future__ import annotations

from typing import Any

import pytest
from server.client import Client, answer
from server.documents import at


@pytest.mark.parametrize(
    ("patch", "merged"),  # RFC 7396, the examples of its appendix that fit an object
    [
        ({"a": "c"}, {"a": "c", "e": {"f": 1}}),
        ({"b": "c"}, {"a": "b", "b": "c", "e": {"f": 1}}),
        ({"a": None}, {"e": {"f": 1}}),
        ({"a": ["c"]}, {"a": ["c"], "e": {"f": 1}}),
        ({"e": {"f": None, "g": 2}}, {"a": "b", "e": {"g": 2}}),
        ({"e": None, "x": {"y": None, "z": [None]}}, {"a": "b", "x": {"z": [None]}}),
        ({"a": {"deep": {"gone": None}}}, {"a": {"deep": {}}, "e": {"f": 1}}),
        ({"missing": None}, {"a": "b", "e": {"f": 1}}),
        ({}, {"a": "b", "e": {"f": 1}}),
    ],
)
def test_metadata_is_merged(
    client: Client, library: str, patch: dict[str, Any], merged: dict[str, Any]
) -> None:
    client.put(library, "a", {"text": "x", "title": "t", "metadata": {"a": "b", "e": {"f": 1}}})
    before = client.get(library, "a", include="vectors")
    response = client.http.patch(at(library, "a"), json={"metadata": patch})
    after = client.get(library, "a", include="vectors")
    assert before is not None
    assert after is not None
    assert after["metadata"] == merged
    assert after["chunks"] == before["chunks"]
    assert after["title"] == "t"
    changed = merged != before["metadata"]
    assert response.json()["status"] == ("updated" if changed else "unchanged")
    assert after["version"] == (2 if changed else 1)
    assert response.headers["etag"] == f'"{after["version"]}"'


def test_a_patch_sets_and_takes_away_the_title(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x", "title": "t"})
    path = at(library, "a")
    assert answer(client.http.patch(path, json={"title": "u"}))["status"] == "updated"
    assert answer(client.http.patch(path, json={"title": "u"}))["status"] == "unchanged"
    assert answer(client.http.get(path))["title"] == "u"
    answer(client.http.patch(path, json={"title": None}))
    assert "title" not in answer(client.http.get(path))
    assert answer(client.http.patch(path, json={}))["status"] == "unchanged"
    (hit,) = client.search(library, "x")["results"]
    assert hit["title"] is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"text":"y"}', "unknown_field"),
        (b'{"metadata":null}', "invalid_document"),
        (b'{"metadata":[]}', "invalid_document"),
        (b'{"title":1}', "invalid_document"),
        (b'{"title":"a\\u0000"}', "invalid_document"),
        (b'{"metadata":{"a":"\\u0000"}}', "invalid_document"),
        (b'{"metadata":{"a":' + b"[" * 500 + b"]" * 500 + b"}}", "invalid_document"),
        (b"[]", "invalid_document"),
        (b"", "invalid_json"),
        (b'{"metadata":{"a":NaN}}', "invalid_json"),
    ],
)
def test_a_wrong_patch_is_refused(client: Client, library: str, body: bytes, error: str) -> None:
    client.put(library, "a", {"text": "x"})
    response = client.http.patch(at(library, "a"), content=body)
    assert response.json()["code"] == error
    assert response.status_code == (400 if error == "invalid_json" else 422)
    found = client.get(library, "a")
    assert found is not None
    assert found["version"] == 1


def test_a_patch_is_told_with_the_new_metadata(client: Client, library: str) -> None:
    client.put(library, "a", {"text": "x", "metadata": {"n": 1}})
    answer(client.http.patch(at(library, "a"), json={"metadata": {"n": 2}}))
    (event,) = client.all_events(library_id=library, types="document.updated")
    assert event["data"]["metadata"] == {"n": 2}
    assert event["data"]["version"] == 2
    assert client.all_events(library_id=library, types="chunk.deleted") == []
