"""Filters on metadata: read from JSON, compared with documents.

`parse` makes a `Filter`, `matches` says whether a document's metadata meets it. What the operators
mean is defined in `filter.py`, for everybody.
"""

from headwater.filters.filter import (
    ALL,
    And,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    matches,
)
from headwater.filters.parse import MAX_PATH_CHARS, parse, parse_json
from headwater.filters.values import Flag, Key, instant, key_of

__all__ = [
    "ALL",
    "MAX_PATH_CHARS",
    "And",
    "Contains",
    "Exists",
    "Filter",
    "Flag",
    "In",
    "Key",
    "Not",
    "Or",
    "Range",
    "instant",
    "key_of",
    "matches",
    "parse",
    "parse_json",
]
