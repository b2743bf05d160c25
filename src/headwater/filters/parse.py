"""From JSON to a filter, or to an error that says where and what to write instead.

Called with what a client sent, so everything is bounded: depth, conditions, values, names. It
must never recurse deeper than `MAX_DEPTH`, whatever it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from headwater.errors import InvalidFilter
from headwater.filters.filter import (
    Contains,
    Exists,
    Filter,
    In,
    Kind,
    Range,
    all_of,
    any_of,
    negated,
)
from headwater.filters.values import Key, instant, key_of

MAX_DEPTH = 32
MAX_CONDITIONS = 1_000
MAX_VALUES = 10_000
MAX_PATH_CHARS = 1_000
_OPERATORS = (
    "$eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists, $contains and $not on a field; "
    "$and, $or and $not around conditions"
)


def parse_json(text: str | bytes) -> Filter:
    """A filter from its JSON text. Raises `InvalidFilter`."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidFilter(
            f'the filter is not JSON ({error}); write an object such as {{"year":{{"$gte":2020}}}}',
            path="",
        ) from error
    return parse(value)


def parse(value: object) -> Filter:
    """A filter from decoded JSON. Raises `InvalidFilter`, whose `path` names the place."""
    return _Parser().conditions(value, "", 0)


class _Parser:
    """Counts as it goes: the limits are those of one whole filter."""

    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def conditions(self, value: object, where: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            raise _wrong(
                where, f"this is {_named(value)}; write an object of fields and conditions"
            )
        self._deeper(where, depth)
        if not value:
            self._count(where)  # or a list of millions of these would cost nothing
        return all_of([self._member(key, part, where, depth) for key, part in _items(value, where)])

    def _member(self, key: str, part: object, where: str, depth: int) -> Filter:
        here = f"{where}.{key}" if where else key
        if key.startswith("$"):
            self._count(here)
        match key:
            case "$and":
                return all_of(self._list(part, here, depth))
            case "$or":
                return any_of(self._list(part, here, depth))
            case "$not":
                return negated(self.conditions(part, here, depth + 1))
        if key.startswith("$"):
            hint = (
                f'write it on a field: {{"field":{{"{key}":…}}}}'
                if key in _OPERATORS
                else (f"known are {_OPERATORS}")
            )
            raise _wrong(here, f"{key!r} does not stand around conditions; {hint}")
        if len(key) > MAX_PATH_CHARS:
            raise _wrong(here[:80] + "…", f"a path has at most {MAX_PATH_CHARS} characters")
        return self._field(key, part, here, depth)

    def _list(self, value: object, where: str, depth: int) -> list[Filter]:
        if not isinstance(value, list) or not value:
            raise _wrong(where, "write a list of at least one object of conditions")
        return [
            self.conditions(part, f"{where}[{index}]", depth + 1)
            for index, part in enumerate(value)
        ]

    def _field(self, path: str, value: object, where: str, depth: int) -> Filter:
        if isinstance(value, list):
            raise _wrong(
                where, "a list is no value to compare with; write $in (any of them), $contains"
            )
        if not isinstance(value, dict):
            self._count(where)
            return In(path, frozenset([self._scalar(value, where)]))
        self._deeper(where, depth)
        if not value:
            raise _wrong(where, f"no operator is given; known are {_OPERATORS}")
        return all_of(
            [
                self._condition(path, operator, operand, f"{where}.{operator}", depth)
                for operator, operand in _items(value, where)
            ]
        )

    def _condition(
        self, path: str, operator: str, operand: object, where: str, depth: int
    ) -> Filter:
        self._count(where)
        match operator:
            case "$eq":
                return In(path, frozenset([self._scalar(operand, where)]))
            case "$ne":
                return negated(In(path, frozenset([self._scalar(operand, where)])))
            case "$in":
                return In(path, self._scalars(operand, where))
            case "$nin":
                return negated(In(path, self._scalars(operand, where)))
            case "$gt" | "$gte" | "$lt" | "$lte":
                key = self._scalar(operand, where)
                if not isinstance(key, str | int | float):
                    raise _wrong(
                        where,
                        f"{_named(operand)} has no order; compare with a number, a "
                        "string or a date such as 2024-01-31",
                    )
                kind: Kind = "number"
                bound: str | int | float = key
                if isinstance(key, str):
                    moment = instant(key)
                    kind, bound = ("string", key) if moment is None else ("instant", moment)
                return Range(path, operator, kind, bound, key)
            case "$exists":
                if not isinstance(operand, bool):
                    raise _wrong(where, f"write true or false, not {_named(operand)}")
                return Exists(path) if operand else negated(Exists(path))
            case "$contains":
                return Contains(path, self._scalar(operand, where))
            case "$not":
                if not isinstance(operand, dict):
                    raise _wrong(
                        where, 'write operators in it, such as {"$not":{"$gte":3}}, or use $ne'
                    )
                return negated(self._field(path, operand, where, depth + 1))
        if operator.startswith("$"):
            raise _wrong(where, f"there is no operator {operator[:80]!r}; known are {_OPERATORS}")
        raise _wrong(
            where,
            f"an operator is expected here; for a field of an object write the path "
            f"{path + '.' + operator!r}",
        )

    def _scalars(self, value: object, where: str) -> frozenset[Key]:
        if not isinstance(value, list):
            raise _wrong(where, f"write a list of values, not {_named(value)}")
        self._values += len(value)
        if self._values > MAX_VALUES:
            raise _wrong(
                where, f"a filter lists at most {MAX_VALUES} values; ask in several requests"
            )
        return frozenset(
            [self._scalar(item, f"{where}[{index}]") for index, item in enumerate(value)]
        )

    def _scalar(self, value: object, where: str) -> Key:
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(where, "this number is not finite")
        if value is None or isinstance(value, str | int | float):
            return key_of(value)
        raise _wrong(where, f"compare with a string, number, boolean or null, not {_named(value)}")

    def _count(self, where: str) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _wrong(
                where, f"a filter has at most {MAX_CONDITIONS} conditions; use $in for values"
            )

    def _deeper(self, where: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _wrong(
                where[:80] + "…", f"conditions nest at most {MAX_DEPTH} deep; write it flatter"
            )


def _items(value: dict[Any, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        if not isinstance(key, str):
            raise _wrong(where, "the keys of a filter are strings")
        yield key, part


def _named(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
    return f"a {type(value).__name__}"


def _wrong(where: str, why: str) -> InvalidFilter:
    return InvalidFilter(f"filter at {where or 'its top'}: {why}", path=where)
