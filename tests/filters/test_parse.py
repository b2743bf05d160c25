"""Filters that are wrong: where, and what the client is told."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.errors import InvalidFilter
from headwater.filters import parse, parse_json


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        made = {"$not": made}
    return made


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        ([], "", "a list"),
        (None, "", "null"),
        ({"$or": [{"a": 1}, {"year": {"$gte": None}}]}, "$or[1].year.$gte", "null has no order"),
        ({"a": {"$gt": True}}, "a.$gt", "a boolean"),
        ({"a": {"$gt": [1]}}, "a.$gt", "a list"),
        ({"a": [1]}, "a", "$in"),
        ({"a": {}}, "a", "no operator"),
        ({"a": {"b": 1}}, "a.b", "'a.b'"),
        ({"a": {"$near": 1}}, "a.$near", "$gte"),
        ({"$gte": 1}, "$gte", "on a field"),
        ({"$nor": []}, "$nor", "$and"),
        ({"$or": []}, "$or", "at least one"),
        ({"$and": {"a": 1}}, "$and", "a list"),
        ({"$and": [1]}, "$and[0]", "a number"),
        ({"$not": []}, "$not", "an object"),
        ({"a": {"$in": 1}}, "a.$in", "a list"),
        ({"a": {"$in": [1, {}]}}, "a.$in[1]", "an object"),
        ({"a": {"$exists": 1}}, "a.$exists", "true or false"),
        ({"a": {"$not": 1}}, "a.$not", "$ne"),
        ({"a": {"$not": {"b": 1}}}, "a.$not.b", "operator"),
        ({"a": float("nan")}, "a", "finite"),
        ({"a": {"$in": list(range(10_001))}}, "a.$in", "10000"),
        ({"$or": [{"a": 1}] * 1_000}, "$or[999].a", "1000 conditions"),
        ({"$or": [{"a": {"$gt": 1}}] * 1_000}, "$or[999].a.$gt", "1000 conditions"),
        ({"$or": [{}] * 1_000_000}, "$or[999]", "1000 conditions"),
        ({1: 2}, "", "strings"),
    ],
)
def test_a_wrong_filter_names_the_place(value: Any, path: str, says: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(value)
    assert caught.value.fields["path"] == path
    assert says in caught.value.detail


def test_a_condition_with_its_operator_counts_once() -> None:
    parse({"$or": [{"a": {"$gt": number}} for number in range(999)]})


def test_depth_is_bounded() -> None:
    parse(nested(32))
    with pytest.raises(InvalidFilter, match="32 deep"):
        parse(nested(33))
    field: dict[str, Any] = {"$eq": 1}
    for _ in range(40):
        field = {"$not": field}
    with pytest.raises(InvalidFilter, match="32 deep"):
        parse({"a": field})


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "1", '{"a":{}}', '{"a":[1]}', '{"a":1', '{"a":NaN}', "null"]
)
def test_text_that_is_no_filter(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_json(text)


@pytest.mark.parametrize("text", ['{"$not":' * 100_000, '{"a":' + "[" * 100_000, b"\xff{}"])
def test_text_made_to_hurt(text: str | bytes) -> None:
    with pytest.raises(InvalidFilter):
        parse_json(text)
