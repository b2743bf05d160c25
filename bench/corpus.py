"""Texts and queries for the benchmarks, from the docstrings of the standard library.

A text is two clauses that stand near each other in the library's documentation, about 90
characters: real words in real company, and enough pairs for a million different texts. The same
on every run with one version of Python; no two texts are equal.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from headwater.cli.corpus import docstrings

_CLAUSE_CHARS = 40
_NEAR = 60
_encode = msgspec.json.Encoder().encode


@functools.cache
def clauses() -> tuple[str, ...]:
    """Every stretch of at least 40 characters of prose, in the library's order, once."""
    found: dict[str, None] = {}
    for document in docstrings():
        clause = ""
        for word in document["text"].split():
            clause = f"{clause} {word}" if clause else word
            if len(clause) >= _CLAUSE_CHARS:
                if sum(map(str.isalpha, clause)) > 0.7 * len(clause):
                    found[clause] = None
                clause = ""
    return tuple(found)


def texts(count: int, *, seed: int = 1) -> Iterator[str]:
    """`count` different texts."""
    parts = clauses()
    choose = random.Random(seed)
    seen: set[tuple[int, int]] = set()
    while len(seen) < count:
        first = choose.randrange(len(parts))
        second = (first + choose.randint(-_NEAR, _NEAR)) % len(parts)
        if first != second and (first, second) not in seen:
            seen.add((first, second))
            yield f"{parts[first]} {parts[second]}"


def queries(count: int, *, seed: int = 2) -> list[str]:
    """`count` different queries of three to nine words."""
    choose = random.Random(seed)
    found: dict[str, None] = {}
    for text in texts(4 * count, seed=seed):
        words = text.split()
        length = choose.randint(3, 9)
        start = choose.randrange(max(1, len(words) - length))
        found[" ".join(words[start : start + length])] = None
        if len(found) == count:
            break
    return list(found)


def lines(
    count: int, *, seed: int = 1, prefix: str = "doc", numbered: int | None = None
) -> Iterator[bytes]:
    """`count` documents as NDJSON lines.

    With `numbered` each has the metadata field `n`, its number modulo that.
    """
    for number, text in enumerate(texts(count, seed=seed)):
        document: dict[str, Any] = {"id": f"{prefix}-{number}", "text": text}
        if numbered is not None:
            document["metadata"] = {"n": number % numbered}
        yield _encode(document) + b"\n"
