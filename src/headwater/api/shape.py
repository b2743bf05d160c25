"""What a JSON body may hold at the place where it holds something else.

`body.py` asks when a body does not fit, so that the answer names what would have: whoever comes
from another product has its field names in the fingers. A request that fits never comes here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

_PLACE = re.compile(r" at `\$([^`]*)`$")
_STEP = re.compile(r"\.(\w+)|\[[^\]]*\]")


def known_at(type: Any, error: msgspec.ValidationError) -> list[str]:
    """The fields, or the values, that may stand where msgspec found a wrong one.

    In their order; empty when the error is of another kind, or nothing can be listed.
    """
    text = str(error)
    place = _PLACE.search(text)
    steps = [match[1] for match in _STEP.finditer(place[1])] if place else []
    there = [inspect.type_info(type)]
    for step in steps:
        there = [inner for outer in there for inner in _within(outer, step)]
    kinds = [kind for outer in there for kind in _kinds(outer)]
    if "unknown field" in text:
        return [
            field.encode_name
            for kind in kinds
            if isinstance(kind, inspect.StructType)
            for field in kind.fields
        ]
    if text.startswith("Invalid enum value"):
        return [
            str(value)
            for kind in kinds
            if isinstance(kind, inspect.LiteralType)
            for value in kind.values
        ]
    return []


def _kinds(type: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(type, inspect.UnionType):
        for kind in type.types:
            yield from _kinds(kind)
    else:
        yield type


def _within(type: inspect.Type, step: str | None) -> Iterator[inspect.Type]:
    """What stands in a field of that name, or in a list (None)."""
    for kind in _kinds(type):
        if isinstance(kind, inspect.StructType):
            yield from (field.type for field in kind.fields if field.encode_name == step)
        elif isinstance(kind, inspect.ListType) and step is None:
            yield kind.item_type
