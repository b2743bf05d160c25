"""Texts into word pieces, each word only once.

`bag.py` calls it. A BERT tokenizer takes 30 µs for a text of 90 characters, nearly all of it for
words it has seen a moment ago; remembering their pieces takes 9. It relies on that tokenizer
treating each word alone, and must give exactly what the tokenizer gives for the whole text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import chain

from tokenizers import Tokenizer
from tokenizers.models import WordPiece

# BERT's pre-tokenizer splits at white space and makes each ASCII punctuation mark a word. Other
# white space, controls, accents and scripts stay inside a word here: the tokenizer sees to them.
_PUNCTUATION = r"!-/:-@\[-`{-~"
_words = re.compile(rf"[^ \t\r\n{_PUNCTUATION}]+|[{_PUNCTUATION}]").findall

_KNOWN_WORDS = 1 << 16
_LONGEST_KNOWN = 64
_MANY = 256

# Splitting a batch over threads gains nothing where the server's own threads fill the cores, and
# costs a hand-over for each batch. The tokenizer reads this at each call.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Pieces:
    """A tokenizer of words with a memory of some 15 MB at most. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known = _whole_words(tokenizer)

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without special tokens."""
        words = [_words(text) for text in texts]
        distinct = set(chain.from_iterable(words))
        known = self._known
        missing = list(distinct.difference(known))
        if len(missing) > _MANY and 2 * len(missing) > sum(map(len, words)):
            # Numbers, hashes, another language: a word alone costs as much as some in a text.
            return self._ask(texts)
        if missing:
            learned = dict(zip(missing, map(tuple, self._ask(missing)), strict=True))
            kept = {word: ids for word, ids in learned.items() if len(word) <= _LONGEST_KNOWN}
            if len(known) + len(kept) > _KNOWN_WORDS:
                # Begin anew in a new dictionary: another thread may be reading the old one.
                self._known = _whole_words(self._tokenizer)
            self._known.update(kept)
            known = {word: known[word] for word in distinct.difference(missing)} | learned
        pieces = known.__getitem__
        return [list(chain.from_iterable(map(pieces, text))) for text in words]

    def _ask(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            # Half a surrogate pair, which JSON can carry and UTF-8 cannot, is read as "?".
            legal = [text.encode("utf-8", "replace").decode() for text in texts]
            encodings = self._tokenizer.encode_batch_fast(legal, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def _whole_words(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """The plain words that are one piece, so that even the first search need not ask for them.

    WordPiece takes the longest piece that fits, and that is the word itself.
    """
    if not isinstance(tokenizer.model, WordPiece):
        return {}
    return {
        word: (token,)
        for word, token in tokenizer.get_vocab(with_added_tokens=False).items()
        if word.isascii() and word.isalnum() and word == word.lower()
    }
