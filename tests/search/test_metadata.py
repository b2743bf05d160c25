"""The index of metadata selects what the reference, `filters.matches`, says: always."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from filters.random_filters import filters, metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.filters import matches, parse
from headwater.search import metadata as module
from headwater.search import metadata_column, metadata_table
from headwater.search.metadata import MetadataIndex
from headwater.search.metadata_selection import Selection

Effective = dict[int, dict[str, Any]]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PURGE_SLOTS", 3)
    monkeypatch.setattr(metadata_column, "_TAIL", 2)
    monkeypatch.setattr(metadata_table, "_RECENT", 3)


def rows(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


def agrees(index: MetadataIndex, held: Effective, wanted: Any) -> None:
    made = parse(wanted)
    expected = sorted(row for row, own in held.items() if matches(made, own))
    selection = index.select(made)
    assert selection.rows().tolist() == expected
    assert selection.count == len(expected)
    probe = sorted({*held, *(row + 1 for row in held), 0, 10**12})
    assert selection.mask(rows(*probe)).tolist() == [row in expected for row in probe]


# A span of rows is named by a small number, so that puts, replaces and removes meet; high spans
# make the row numbers sparse.
spans = st.integers(0, 9)
overlays = st.dictionaries(st.integers(0, 2), metadata, max_size=2)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["put", "put", "replace"]),
            spans,
            st.integers(1, 3),
            metadata,
            overlays,
        ),
        st.tuples(st.just("remove"), st.sets(st.integers(0, 40), max_size=9)),
        st.tuples(st.just("ask"), filters),
    ),
    max_size=14,
)


@given(steps, st.lists(filters, min_size=1, max_size=4), st.sampled_from([4, 1 << 33]))
@settings(max_examples=400, deadline=None)
def test_random_documents_filters_and_churn(
    done: list[tuple[Any, ...]], asked: list[Any], apart: int
) -> None:
    index = MetadataIndex()
    held: Effective = {}
    for step in done:
        match step:
            case ("ask", wanted):
                agrees(index, held, wanted)
            case ("remove", numbers):
                gone = sorted(apart * (number // 4) + number % 4 for number in numbers)
                index.remove(rows(*gone))
                for row in gone:
                    held.pop(row, None)
            case (kind, span, count, own, over):
                first = span * apart
                laid = {first + at: part for at, part in over.items() if at < count}
                own_rows = range(first, first + count)
                if kind == "replace" and not all(row in held for row in own_rows):
                    index.replace(first, count, own, laid)
                    continue
                (index.put if kind == "put" else index.replace)(first, count, own, laid)
                for row in own_rows:
                    held[row] = {**own, **laid.get(row, {})}
    assert index.count == len(held)
    again = MetadataIndex.of(index.saved())
    for wanted in asked:
        agrees(index, held, wanted)
        agrees(again, held, wanted)


def ask(index: MetadataIndex, wanted: Any) -> list[int]:
    listed: list[int] = index.select(parse(wanted)).rows().tolist()
    return listed


def test_a_chunks_own_metadata_lies_over_the_documents() -> None:
    index = MetadataIndex()
    index.put(10, 3, b'{"lang":"en","page":0}', {11: {"page": {"no": 2}}, 12: {}})
    assert ask(index, {"page": 0}) == [10, 12]
    assert ask(index, {"page.no": 2, "lang": "en"}) == [11]


def test_a_selection_stays_as_it_was() -> None:
    index = MetadataIndex()
    for row in range(100):
        index.put(row, 1, {"n": row, "even": row % 2 == 0})
    selection = index.select(parse({"even": True}))
    index.remove(np.arange(0, 100, 4))
    index.put(200, 1, {"even": True})
    assert selection.rows().tolist() == list(range(0, 100, 2))
    assert selection.mask(rows(0, 1, 2, 200)).tolist() == [True, False, True, False]
    assert index.select(parse({"even": True})).count == 26
    with pytest.raises(ValueError, match="read-only"):
        selection.rows()[0] = 5


def test_an_equal_filter_is_answered_from_memory_until_something_changes() -> None:
    index = MetadataIndex()
    index.put(1, 1, {"a": 1})
    first = index.select(parse({"a": 1, "b": {"$exists": False}}))
    assert index.select(parse({"b": {"$exists": False}, "a": 1.0})) is first
    index.put(2, 1, {"a": 1})
    second: Selection = index.select(parse({"a": 1}))
    assert (second is first, second.count) == (False, 2)


def test_a_range_asked_early_hears_of_what_comes_later() -> None:
    index = MetadataIndex()
    held: Effective = {}
    wanted = {"n": {"$gt": 2**53, "$lte": 10**20}}
    for row in range(40):
        held[row] = {"n": 2**53 + row - 20 if row % 2 else str(row), "at": f"2024-01-{row % 31}"}
        index.put(row, 1, held[row])
        agrees(index, held, wanted)
        agrees(index, held, {"n": {"$lt": "3"}})
        agrees(index, held, {"at": {"$gte": "2024-01-10T00:00:00Z"}})


def test_memory_shrinks_again() -> None:
    index = MetadataIndex()
    for row in range(2_000):
        index.put(row, 1, {"id": f"document-{row}", "shelf": row % 3})
    full = index.memory_bytes
    assert 50 * 2_000 < full < 250 * 2_000
    index.remove(np.arange(100, 2_000))
    assert index.memory_bytes < full / 5
    assert ask(index, {"id": "document-7"}) == [7]
    assert ask(index, {"id": "document-700"}) == []


def test_paths_that_no_filter_can_name_take_no_memory() -> None:
    index = MetadataIndex()
    index.put(1, 1, {"k" * 1_000: 1})
    assert ask(index, {"k" * 1_000: 1}) == [1]
    held = index.memory_bytes
    nested: dict[str, Any] = {"end": 1}
    for _ in range(50):
        nested = {"k" * 1_001: nested}
    index.put(2, 1, nested)
    assert index.memory_bytes <= held + 100
