"""Where a query's words stand in a passage, and the piece of it worth showing.

For the few hits that are shown; an index keeps no texts. Words are cut and stemmed as in the
index, so that what is marked is what was found.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from headwater.search.language import Word, plain, words
from headwater.search.wording import Clause, clauses

_SNIPPET_CHARS = 240


class Mark(NamedTuple):
    """Character offsets into the text, `end` exclusive."""

    start: int
    end: int


class Highlights(NamedTuple):
    """The words found, in order, and the `snippet` that holds the most different ones of them."""

    marks: list[Mark]
    snippet: Mark


def highlight(
    text: str, query: str, language: str, *, snippet_chars: int = _SNIPPET_CHARS
) -> Highlights:
    """Marks for the words of `query` in `text`; those of a phrase where it stands as a whole.

    Without any the snippet is the beginning.
    """
    there = _words(text, language)
    starts: dict[str, list[int]] = {}
    for at, word in enumerate(there):
        starts.setdefault(word.text, []).append(at)
    found: dict[int, int] = {}
    for number, clause in enumerate(_wanted(query, language)):
        for place in _places(there, starts.get(clause.words[0].text, ()), clause):
            for at in range(place, place + len(clause.words)):
                found.setdefault(at, number)
    places = sorted(found)
    marks = [Mark(there[at].start, there[at].end) for at in places]
    return Highlights(marks, _snippet(text, marks, [found[at] for at in places], snippet_chars))


def _words(text: str, language: str) -> list[Word]:
    """The words of a text as they are indexed, with their places in the text as it came."""
    indexed = plain(text)
    if indexed == text:
        return words(text, language)
    places = [0]
    whole = []
    for cluster in _clusters(text):
        composed = plain(cluster)
        whole.append(composed)
        start, size, end = places[-1], len(composed), places[-1] + len(cluster)
        # What composes stands first in a cluster: marks behind it are counted from its end.
        shift = max(0, len(cluster) - size)
        places += [min(start + at + shift, end) for at in range(1, size)]
        places.append(end)
    if "".join(whole) != indexed:
        return words(text, language)
    return [
        word._replace(start=places[word.start], end=places[word.end])
        for word in words(indexed, language)
        if places[word.start] < places[word.end]
    ]


def _clusters(text: str) -> Iterator[str]:
    """Pieces that are composed each for itself: a character, and the marks and jamo that follow."""
    start = 0
    for at in range(1, len(text)):
        if not (unicodedata.category(text[at])[0] == "M" or "\u1160" <= text[at] <= "\u11ff"):
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


@lru_cache(64)
def _wanted(query: str, language: str) -> tuple[Clause, ...]:
    wanted = {clause.key: clause for clause in clauses(query, language)}
    return tuple(clause for clause in wanted.values() if clause.sign != "-")


def _places(there: Sequence[Word], starts: Sequence[int], clause: Clause) -> list[int]:
    """Which of `starts`, where its first word is in `there`, begin the whole clause."""
    wanted = clause.words
    first = wanted[0]
    return [
        at
        for at in starts
        if at + len(wanted) <= len(there)
        and all(
            there[at + i].text == word.text
            and there[at + i].position - there[at].position == word.position - first.position
            for i, word in enumerate(wanted[1:], 1)
        )
    ]


def _snippet(text: str, marks: Sequence[Mark], kinds: Sequence[int], chars: int) -> Mark:
    if len(text) <= chars:
        return Mark(0, len(text))
    best, best_worth = 0, (0, 0)
    last = 0
    for first in range(len(marks)):
        last = max(last, first)
        while last + 1 < len(marks) and marks[last + 1].end - marks[first].start <= chars:
            last += 1
        worth = (len(set(kinds[first : last + 1])), last - first + 1)
        if worth > best_worth:
            best, best_worth = first, worth
    if not marks:
        return Mark(0, _end(text, chars))
    inside = [mark for mark in marks[best:] if mark.end - marks[best].start <= chars]
    reach = inside[-1].end if inside else marks[best].end
    spare = max(0, chars - (reach - marks[best].start))
    start = _begin(text, max(0, marks[best].start - spare // 2), marks[best].start)
    return Mark(start, max(reach, _end(text, start + chars)))


def _begin(text: str, at: int, before: int) -> int:
    """The first start of a word from `at` on, `before` at the latest."""
    if at == 0:
        return 0
    space = next((i for i in range(at - 1, before) if text[i].isspace()), None)
    return before if space is None else min(space + 1, before)


def _end(text: str, at: int) -> int:
    """The last end of a word up to `at`; `at` itself when there is no space to end at."""
    if at >= len(text):
        return len(text)
    space = next((i for i in range(at, max(0, at - 40), -1) if text[i].isspace()), None)
    return at if space is None else space
