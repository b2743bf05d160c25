"""What a reader of the feed wants: types with wildcards, libraries, metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.errors import InvalidFilter, InvalidQuery
from headwater.feeds import Selection, parse_condition, parse_types
from headwater.feeds.selection import CHUNK_TYPES, STORED_TYPES
from headwater.model import EVENT_TYPES, Change


def change(type: str = "document.added", metadata: Any = None, library: str = "lib") -> Change:
    data = {"document_id": "d"} if metadata is None else {"document_id": "d", "metadata": metadata}
    return Change(1, 0, type, library, "d", json.dumps(data).encode())


def test_every_type_but_chunks_is_heard_by_default() -> None:
    assert parse_types(None) == parse_types("*") == STORED_TYPES
    assert frozenset(EVENT_TYPES) == STORED_TYPES | CHUNK_TYPES
    assert {"chunk.added", "chunk.deleted"} == CHUNK_TYPES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("document.added", {"document.added"}),
        (
            "document.*",
            {"document.added", "document.updated", "document.deleted", "document.embedded"},
        ),
        (" batch.failed , library.* ,", {"batch.failed"} | {t for t in EVENT_TYPES if "lib" in t}),
        ("chunk.*", CHUNK_TYPES),
        ("*,chunk.added", STORED_TYPES | {"chunk.added"}),
        ("index.*,index.rebuilt", {t for t in EVENT_TYPES if t.startswith("index.")}),
    ],
)
def test_types_and_wildcards(text: str, told: set[str]) -> None:
    assert parse_types(text) == told


@pytest.mark.parametrize(
    "text", ["", ",", "document", "doc*", "*.added", "job.waiting", "**", ".*"]
)
def test_a_type_that_nothing_matches_is_an_error(text: str) -> None:
    with pytest.raises(InvalidQuery):
        parse_types(text)


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "1", '{"a":{}}', '{"a":[1]}', '{"a":1', '{"a":NaN}', "null"]
)
def test_a_filter_that_is_wrong_is_an_error(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_condition(text)


def test_equal_filters_are_one() -> None:
    assert parse_condition('{"b":1,"a":"x"}') == parse_condition('{ "a": "x", "b": 1 }')
    assert parse_condition(None) is None


@pytest.mark.parametrize(
    ("condition", "metadata", "meets"),
    [
        ('{"lang":"en"}', {"lang": "en"}, True),
        ('{"lang":"en"}', {"lang": "de"}, False),
        ('{"lang":"en"}', {}, False),
        ('{"lang":"en"}', None, False),
        ('{"lang":"en"}', {"lang": ["de", "en"]}, True),
        ('{"lang":"en"}', {"lang": ["de"]}, False),
        ('{"lang":"en"}', {"lang": "english"}, False),
        ('{"lang":"en","year":2026}', {"lang": "en", "year": 2026, "more": 1}, True),
        ('{"lang":"en","year":2026}', {"lang": "en"}, False),
        ('{"gone":null}', {"gone": None}, True),
        ('{"gone":null}', {}, False),
        ('{"n":1}', {"n": 1.0}, True),
        ('{"n":1}', {"n": "1"}, False),
        ('{"n":1}', {"n": True}, False),
        ('{"ok":true}', {"ok": 1}, False),
        ('{"ok":true}', {"ok": True}, True),
        ('{"ok":true}', {"ok": [1]}, False),
        ('{"a":"x"}', {"a": {"x": 1}}, False),
        ("{}", {"a": 1}, True),
        ("{}", None, True),
        ('{"a.b":{"$gte":2}}', {"a": [{"b": 1}, {"b": 3}]}, True),
        ('{"$or":[{"lang":"en"},{"lang":{"$exists":false}}]}', None, True),
        ('{"lang":{"$ne":"en"}}', {"lang": "en"}, False),
    ],
)
def test_a_filter_compares_metadata(condition: str, metadata: Any, meets: bool) -> None:
    selection = Selection(condition=parse_condition(condition))
    assert selection.wants(change(metadata=metadata)) is meets
    assert selection.wants(change("document.deleted", metadata)) is meets


def test_a_filter_leaves_out_what_is_neither_document_nor_alert() -> None:
    selection = Selection(condition=parse_condition("{}"))
    for kind in STORED_TYPES:
        assert selection.wants(change(kind, {})) is kind.startswith(("document.", "alert."))


def test_libraries_and_types_are_both_asked() -> None:
    selection = Selection(frozenset({"lib"}), parse_types("document.added"))
    assert selection.wants(change())
    assert not selection.wants(change(library="other"))
    assert not selection.wants(change("document.deleted"))
    assert selection.pick([change(), change(library="other")]) == [change()]


def test_chunk_events_read_the_document_changes_they_come_from() -> None:
    selection = Selection(told=parse_types("chunk.deleted"))
    assert selection.chunks
    assert selection.stored == frozenset({"document.added", "document.updated", "document.deleted"})
    assert selection.wants(change())
    everything = Selection()
    assert everything.everything
    assert everything.stored is None
    assert Selection(told=parse_types("*,chunk.*")).stored is None
