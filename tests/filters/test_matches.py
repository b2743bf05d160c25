"""What filters mean, operator by operator."""

from __future__ import annotations

from typing import Any

import pytest
from filters.random_filters import filters, metadata
from hypothesis import given, settings

from headwater.filters import ALL, matches, parse, parse_json
from headwater.filters.filter import Not
from headwater.filters.values import instant

BIG = 2**53


@pytest.mark.parametrize(
    ("wanted", "found", "meets"),
    [
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": True}, {"a": [False, True]}, True),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": BIG + 1}, {"a": BIG}, False),
        ({"a": BIG + 1}, {"a": float(BIG)}, False),
        ({"a": "x"}, {"a": [["x"]]}, True),
        ({"a": "x"}, {"a": {"x": "x"}}, False),
        ({"a.b": 1}, {"a": {"b": 1}}, True),
        ({"a.b": 1}, {"a": [{"b": 2}, {"b": [1]}]}, True),
        ({"a.b": 1}, {"a": [[{"b": 1}]]}, True),
        ({"a.b": 1}, {"a.b": 1}, True),
        ({"a.b.c": 1}, {"a": {"b.c": 1}}, True),
        ({"a.b.c": 1}, {"a.b": [{"c": 1}]}, True),
        ({"a.0": 1}, {"a": [1]}, False),
        ({"a": {"$ne": 1}}, {}, True),
        ({"a": {"$ne": 1}}, {"a": [1, 2]}, False),
        ({"a": {"$nin": [1, 2]}}, {"a": 3}, True),
        ({"a": {"$in": []}}, {"a": 3}, False),
        ({"a": {"$nin": []}}, {}, True),
        ({"a": {"$in": [1, None]}}, {"a": None}, True),
        ({"a": {"$gt": BIG}}, {"a": BIG + 1}, True),
        ({"a": {"$gte": 2, "$lt": 3}}, {"a": 2}, True),
        ({"a": {"$gte": 2, "$lt": 3}}, {"a": 3}, False),
        ({"a": {"$gte": 2, "$lt": 3}}, {"a": [1, 5]}, True),  # by two of its values
        ({"a": {"$gt": 0}}, {"a": True}, False),
        ({"a": {"$gt": "a"}}, {"a": "b"}, True),
        ({"a": {"$gt": "Z"}}, {"a": "a"}, True),
        ({"a": {"$lt": "\U0001f600"}}, {"a": "￿"}, True),
        ({"a": {"$gt": "a"}}, {"a": 5}, False),
        ({"a": {"$gte": "2024-01-31"}}, {"a": "2024-01-31T00:00:00Z"}, True),
        ({"a": {"$lt": "2024-01-31"}}, {"a": "2024-01-31T00:30:00+01:00"}, True),
        ({"a": {"$lte": "2024-01-31T00:00:00Z"}}, {"a": "2024-01-31T00:00:00.000001Z"}, False),
        ({"a": {"$gt": "2024-01-31"}}, {"a": "zebra"}, False),
        ({"a": {"$gt": "2024"}}, {"a": "2024-01-31"}, True),  # no date: by code point
        ({"a": "2024-01-31"}, {"a": "2024-01-31T00:00:00Z"}, False),
        ({"a": {"$exists": True}}, {"a": None}, True),
        ({"a": {"$exists": True}}, {"a": []}, True),
        ({"a.b": {"$exists": True}}, {"a": {"b": {}}}, True),
        ({"a": {"$exists": False}}, {"b": 1}, True),
        ({"a": {"$contains": "x"}}, {"a": ["x"]}, True),
        ({"a": {"$contains": "x"}}, {"a": ["xy"]}, False),
        ({"a": {"$contains": "x"}}, {"a": "wxy"}, True),
        ({"a": {"$contains": "x"}}, {"a": "wXy"}, False),
        ({"a": {"$contains": 1}}, {"a": 1}, False),
        ({"a": {"$contains": 1}}, {"a": [[1]]}, True),
        ({"a.b": {"$contains": "x"}}, {"a": [{"b": "xy"}]}, True),
        ({"a": {"$not": {"$gte": 3}}}, {}, True),
        ({"a": {"$not": {"$gte": 3}}}, {"a": 4}, False),
        ({"$or": [{"a": 1}, {"b": 2}]}, {"b": 2}, True),
        ({"$and": [{"a": 1}, {"b": 2}]}, {"b": 2}, False),
        ({"$not": {"a": 1, "b": 2}}, {"a": 1}, True),
        ({"a": 1, "$or": [{"b": 1}, {"b": 2}]}, {"a": 1, "b": 2}, True),
        ({}, {}, True),
    ],
)
def test_what_a_filter_means(wanted: Any, found: Any, meets: bool) -> None:
    assert matches(parse(wanted), found) is meets


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1, "b": 2}, {"b": {"$eq": 2}, "a": {"$in": [1.0, 1]}}),
        ({"$and": [{"a": 1}, {"$and": [{"b": 2}]}]}, {"a": 1, "b": 2}),
        ({"$or": [{"a": 1}, {"a": 1}]}, {"a": 1}),
        ({"$not": {"$not": {"a": 1}}}, {"a": 1}),
        ({"a": {"$nin": [2, 1]}}, {"a": {"$not": {"$in": [1, 2]}}}),
        ({"a": {"$gt": "2024-01-31"}}, {"a": {"$gt": "2024-01-31T00:00Z"}}),
    ],
)
def test_filters_that_say_the_same_are_one(left: Any, right: Any) -> None:
    assert parse(left) == parse(right)
    assert hash(parse(left)) == hash(parse(right))


def test_true_is_no_1_as_a_key() -> None:
    assert parse({"a": 1}) != parse({"a": True})
    assert parse({}) == ALL


@given(filters, metadata)
@settings(max_examples=300, deadline=None)
def test_a_shown_filter_reads_back(wanted: Any, found: Any) -> None:
    made = parse(wanted)
    again = parse_json(made.text)
    assert again == made
    assert matches(again, found) is matches(made, found) is not matches(Not(made), found)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("2024-01-31", "2024-01-31T00:00:00Z"),
        ("2024-01-31T10:00", "2024-01-31 10:00:00.000+00:00"),
        ("2024-01-31T10:00:00.1234567Z", "2024-01-31T10:00:00.123456Z"),
        ("2024-01-31T10:00:00+0530", "2024-01-31T04:30:00Z"),
        ("2024-01-31 10:00:00.5+02", "2024-01-31T08:00:00.5Z"),
        ("2024-01-31T22:30-05", "2024-02-01T03:30:00Z"),
    ],
)
def test_one_moment_in_two_spellings(text: str, other: str) -> None:
    assert instant(text) == instant(other) is not None


@pytest.mark.parametrize(
    "text",
    ["", "2024", "2024-1-1", "2024-02-30", "2024-01-01T25:00", "2024-01-01T10", "20240131",
     "2024-01-01T10:00:00+99:00", "2024-W01-1", "٢٠٢٤-01-01",
     "2024-01-01T10:00:60Z", " 2024-01-01"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert instant(text) is None


def test_the_first_day_of_all_with_an_offset() -> None:
    early, first = instant("0001-01-01T00:00:00+05:00"), instant("0001-01-01")
    assert early is not None
    assert first is not None
    assert early < first
