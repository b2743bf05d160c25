"""What a filter means. The index of metadata must select exactly what `matches` says.

A *path* names keys joined by dots. It gathers all scalars it reaches in a document's metadata,
entering lists at any point, also nested ones; a key that has dots in itself is reached too. A
position in a list cannot be named.

- Equality is strict in type: number with number (1 equals 1.0, exactly, however large), string
  with string, boolean with boolean, null with null. Nothing is folded or trimmed.
- `$eq`: any gathered scalar equals the operand. `$in`: any equals any of them.
- `$ne`, `$nin`: not `$eq`, not `$in`. A document without the path meets them.
- `$gt $gte $lt $lte`: any gathered scalar compares so. Numbers compare with numbers; strings with
  strings, by code point; when the operand is an ISO 8601 date or date-time, moments compare with
  strings that are such dates too, and with nothing else. Two ranges on one path may be met by two
  different scalars.
- `$exists`: something stands at the path, also null, an empty list or an object.
- `$contains`: at the path stands a list with an element (also of a list in it) that equals the
  operand, or a string that has the operand as a part of it, in this very case.
- `$and`, `$or`, `$not` are what they say; several keys of one object are all to be met; `{}` is
  met by everything.

A filter is a frozen value in canonical form: equal ones are equal and hash so, and may be keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from headwater.filters.values import (
    Flag,
    Key,
    any_reached,
    any_scalar,
    instant,
    key_of,
    reached,
)

Kind = Literal["number", "string", "instant"]
Operator = Literal["$gt", "$gte", "$lt", "$lte"]


class Filter(ABC):
    """One condition on metadata. `text` is its canonical JSON, for showing and for ordering."""

    __slots__ = ()

    @property
    @abstractmethod
    def shown(self) -> dict[str, Any]:
        """The filter as the JSON it could be read from."""

    @abstractmethod
    def meets(self, metadata: Mapping[str, Any]) -> bool: ...

    @property
    def text(self) -> str:
        return msgspec.json.encode(self.shown, order="deterministic").decode()


@dataclass(frozen=True, slots=True)
class And(Filter):
    """All of `parts`; with none, everything. Made by `all_of`."""

    parts: tuple[Filter, ...]

    @property
    def shown(self) -> dict[str, Any]:
        return {"$and": [part.shown for part in self.parts]} if self.parts else {}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        return all(part.meets(metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """Any of `parts`. Made by `any_of`."""

    parts: tuple[Filter, ...]

    @property
    def shown(self) -> dict[str, Any]:
        return {"$or": [part.shown for part in self.parts]}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        return any(part.meets(metadata) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not(Filter):
    part: Filter

    @property
    def shown(self) -> dict[str, Any]:
        return {"$not": self.part.shown}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        return not self.part.meets(metadata)


@dataclass(frozen=True, slots=True)
class In(Filter):
    """`$eq` and `$in`."""

    path: str
    keys: frozenset[Key]

    @property
    def shown(self) -> dict[str, Any]:
        plain = [key.value if isinstance(key, Flag) else key for key in self.keys]
        plain.sort(key=lambda value: (type(value).__name__, str(value)))
        return {self.path: {"$eq": plain[0]} if len(plain) == 1 else {"$in": plain}}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        return any_reached(metadata, self.path, self._is_in)

    def _is_in(self, value: Any) -> bool:
        return key_of(value) in self.keys


@dataclass(frozen=True, slots=True)
class Range(Filter):
    """`$gt` and its kin. `bound` is microseconds since 1970 when `kind` is `instant`."""

    path: str
    operator: Operator
    kind: Kind
    bound: int | float | str
    operand: int | float | str = field(compare=False)

    @property
    def shown(self) -> dict[str, Any]:
        return {self.path: {self.operator: self.operand}}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        return any_reached(metadata, self.path, self.holds)

    def holds(self, value: Any) -> bool:
        """Whether one scalar lies in the range."""
        found = comparable(value, self.kind)
        return found is not None and self.compares(found)

    def compares(self, found: Any) -> bool:
        """Whether a value of `comparable` lies in the range."""
        bound: Any = self.bound
        match self.operator:
            case "$gt":
                return bool(found > bound)
            case "$gte":
                return bool(found >= bound)
            case "$lt":
                return bool(found < bound)
            case "$lte":
                return bool(found <= bound)


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    path: str

    @property
    def shown(self) -> dict[str, Any]:
        return {self.path: {"$exists": True}}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        return bool(reached(metadata, self.path))


@dataclass(frozen=True, slots=True)
class Contains(Filter):
    path: str
    key: Key

    @property
    def shown(self) -> dict[str, Any]:
        key = self.key
        return {self.path: {"$contains": key.value if isinstance(key, Flag) else key}}

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        for value in reached(metadata, self.path):
            if isinstance(value, list):
                if any_scalar(value, self._equals):
                    return True
            elif isinstance(value, str) and isinstance(self.key, str) and self.key in value:
                return True
        return False

    def _equals(self, value: Any) -> bool:
        return key_of(value) == self.key


ALL = And(())
"""Met by everything."""


def matches(filter: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether a document with this metadata meets the filter."""
    return filter.meets(metadata)


def comparable(value: Any, kind: Kind) -> Any:
    """A scalar as ranges of that kind compare it; None when they do not."""
    if isinstance(value, str):
        if kind == "string":
            return value
        return instant(value) if kind == "instant" else None
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return None


def all_of(parts: Iterable[Filter]) -> Filter:
    """Their conjunction in canonical form: flat, without repeats, in one order."""
    flat = _flat(parts, And)
    return flat[0] if len(flat) == 1 else And(flat)


def any_of(parts: Iterable[Filter]) -> Filter:
    """Their disjunction in canonical form; at least one part."""
    flat = _flat(parts, Or)
    return flat[0] if len(flat) == 1 else Or(flat)


def negated(part: Filter) -> Filter:
    return part.part if isinstance(part, Not) else Not(part)


def _flat(parts: Iterable[Filter], kind: type[And] | type[Or]) -> tuple[Filter, ...]:
    flat: dict[Filter, str] = {}
    for part in parts:
        for one in part.parts if isinstance(part, kind) else (part,):
            if one not in flat:
                flat[one] = one.text
    return tuple(sorted(flat, key=lambda one: flat[one]))
