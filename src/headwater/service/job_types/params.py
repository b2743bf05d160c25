"""Parameters of jobs: read into a struct, and told what is wrong by its place."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from headwater.errors import HeadwaterError, InvalidJob
from headwater.filters import Filter, parse

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)


def read(params: dict[str, Any], type: type[T]) -> T:
    """Raises `InvalidJob` with the `path` of what is wrong."""
    try:
        return msgspec.convert(params, type)
    except msgspec.ValidationError as error:
        match = _PLACE.fullmatch(str(error))
        assert match is not None
        place = f"params.{match[2]}" if match[2] else "params"
        raise InvalidJob(f"`{place}`: {match[1]}", path=place) from error


def kept(params: msgspec.Struct) -> dict[str, Any]:
    """The parameters as they are kept with the job."""
    made: dict[str, Any] = msgspec.to_builtins(params)
    return made


def filter_of(given: Any, path: str = "params.filter") -> Filter:
    """Raises `InvalidJob`."""
    try:
        return parse(given)
    except HeadwaterError as error:
        raise InvalidJob(error.detail, path=path) from error
