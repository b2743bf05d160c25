"""What people type into a search box, as clauses. Any text is a query; none is an error.

    words      any of them may be in a passage; more of them, and rarer ones, rank higher
    "a phrase" the words in this order, one after the other
    +must      passages without it are not found; also +"a phrase"
    -not       passages with it are not found; also -"a phrase"

A sign counts at the start of a word only, and alone: `--data` is a word, as it is to whoever types
it. What is joined without a space, as in `wi-fi`, `don't` and `os.path`, is a phrase of its parts.
A quote that is never closed is no quote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from headwater.search.language import Word, plain, words

Sign = Literal["", "+", "-"]

_MOST_CLAUSES = 1_024
"""Further words of a query are passed over: a pasted page would be a thousand searches."""

_MOST_WORDS = 32
"""Of one phrase; the further ones are passed over: following `the the the …` takes seconds."""

_PIECE = re.compile(
    r"(?:(?<!\S)(?P<sign>[+-]))?[\"“”](?P<phrase>[^\"“”]*)[\"“”]|(?P<word>[^\s\"“”]+)"
)
_JOINTS = frozenset("'’-‐.:@_·")
"""What stands between the parts of one word."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One word, or several that follow each other; `words` is never empty."""

    sign: Sign
    words: tuple[Word, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for clauses that mean the same, wherever in the query they stand."""
        first = self.words[0].position
        return self.sign, *((word.position - first, word.text) for word in self.words)


def clauses(query: str, language: str) -> list[Clause]:
    """The query's clauses, in order; empty when there is no word in it."""
    return list(islice(_clauses(plain(query), language), _MOST_CLAUSES))


def _clauses(query: str, language: str) -> Iterator[Clause]:
    for match in _PIECE.finditer(query):
        if match["phrase"] is not None:
            cut = words(match["phrase"], language)
            if cut:
                yield Clause(_sign(match["sign"]), tuple(cut[:_MOST_WORDS]))
            continue
        text: str = match["word"]
        alone = _starts_a_word(query, match.start()) and text[1:2] not in ("+", "-")
        sign = _sign(text[0] if alone else None)
        for parts in _joined(text, words(text, language)):
            yield Clause(sign, parts)


def _joined(text: str, cut: Sequence[Word]) -> Iterator[tuple[Word, ...]]:
    """The words of `text`, those together that one joint stands between."""
    first = 0
    for number in range(1, len(cut) + 1):
        if number < len(cut):
            before, word = cut[number - 1], cut[number]
            if word.start - before.end == 1 and text[before.end] in _JOINTS:
                continue
        yield tuple(cut[first : min(number, first + _MOST_WORDS)])
        first = number


def _starts_a_word(query: str, at: int) -> bool:
    return at == 0 or query[at - 1].isspace()


def _sign(text: str | None) -> Sign:
    return "+" if text == "+" else "-" if text == "-" else ""
