"""The scalar values of metadata: what makes two of them equal, and where a path finds them.

Used by filters and by the index of metadata, which must agree in every detail. JSON only: dicts,
lists, strings, numbers, booleans, null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias


class Flag(Enum):
    """A boolean as a key: Python's own `True` equals 1."""

    FALSE = False
    TRUE = True


Key: TypeAlias = str | int | float | Flag | None
"""A scalar that is equal, and hashes equal, exactly when JSON values are: 1 and 1.0 are one."""

_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,12}))?)?"
    r"(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def key_of(value: Any) -> Key:
    """The key of a JSON scalar."""
    if value is True:
        return Flag.TRUE
    if value is False:
        return Flag.FALSE
    return value  # type: ignore[no-any-return]  # a scalar, as the caller knows


def instant(text: str) -> int | None:
    """Microseconds since 1970 of an ISO 8601 date or date-time; None for any other text.

    A date is its first moment; without a zone it is UTC. Digits beyond microseconds are cut.
    """
    if len(text) < 10 or text[4] != "-" or text[7] != "-":
        return None
    return _instant(text)


@lru_cache(maxsize=4096)
def _instant(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    try:
        zone = UTC
        if sign:
            offset = timedelta(hours=int(off_hours), minutes=int(off_minutes or 0))
            zone = timezone(-offset if sign == "-" else offset)
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=zone,
        )
    except ValueError:  # a thirteenth month, an hour 25, an offset of a day
        return None
    return (moment - _EPOCH) // _US


def reached(metadata: Mapping[str, Any], path: str) -> list[Any]:
    """The JSON values at `path`. Lists on the way are entered, one at its end is not."""
    if "." not in path:
        return [metadata[path]] if path in metadata else []
    found: list[Any] = []
    _walk(metadata, path, found)
    return found


def _walk(value: Any, path: str, found: list[Any]) -> None:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                _walk(item, path, found)
        return
    if path in value:
        found.append(value[path])
    at = path.find(".")
    while at >= 0:
        inner = value.get(path[:at])
        if isinstance(inner, dict | list):
            _walk(inner, path[at + 1 :], found)
        at = path.find(".", at + 1)


def any_scalar(value: Any, test: Callable[[Any], bool]) -> bool:
    """Whether `test` holds for a scalar: `value` itself, or one in the list that it is."""
    if isinstance(value, list):
        return any(any_scalar(item, test) for item in value)
    return not isinstance(value, dict) and test(value)


def any_reached(metadata: Mapping[str, Any], path: str, test: Callable[[Any], bool]) -> bool:
    """Whether `test` holds for a scalar that `path` gathers."""
    if "." not in path:
        return path in metadata and any_scalar(metadata[path], test)
    return any(any_scalar(value, test) for value in reached(metadata, path))
