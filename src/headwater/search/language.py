"""The languages of keyword search, and how a text becomes words in each.

Called for what is stored and for what is asked, which must be cut alike: a change here makes kept
indexes wrong, so it goes with a new `VERSION`.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

from tantivy import Filter, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

VERSION = 1

STEMMERS = {
    "ar": "arabic",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
}
NO_STEMMING = "none"
LANGUAGES = (NO_STEMMING, *STEMMERS)
DEFAULT_LANGUAGE = "en"

_LONGEST_WORD_BYTES = 256


class Word(NamedTuple):
    """A word as it is indexed, its place among the words, and where it stands, in characters."""

    text: str
    position: int
    start: int
    end: int


@cache
def analyzer(language: str) -> TextAnalyzer:
    """Letters and digits in a row make a word: lowercased, then stemmed. No word is left out, but
    those longer than any word is."""
    builder = (
        TextAnalyzerBuilder(Tokenizer.simple())
        .filter(Filter.remove_long(_LONGEST_WORD_BYTES))
        .filter(Filter.lowercase())
    )
    if language != NO_STEMMING:
        builder = builder.filter(Filter.stemmer(STEMMERS[language]))
    return builder.build()


def plain(text: str) -> str:
    """`text` as it is indexed: composed, and without what cannot be encoded."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))


def words(text: str, language: str) -> list[Word]:
    """The words of a `plain` text."""
    return [
        Word(token.text, token.position, token.char_offset_from, token.char_offset_to)
        for token in analyzer(language).pre_tokenize(text).tokens
    ]
