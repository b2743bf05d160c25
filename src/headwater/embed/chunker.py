"""Cuts a document's text into the passages that are embedded and found.

Called from preparing threads, many at once, for every document that comes as `text`. Breaks fall
at the largest boundary that fits: paragraphs, lines, sentences, words, graphemes. Offsets are
characters of the text that was given; the text itself is never changed, or a hit could not be
shown in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from semantic_text_splitter import TextSplitter

from headwater.errors import InvalidDocument, InvalidLibrary
from headwater.model import DraftChunk

# The splitter's time grows with the square of a stretch without line breaks: 1 M characters take
# it 6 to 11 s in one piece, 0.1 to 0.7 s in windows of this many or of twelve chunks. It takes
# seconds for 10 k characters of blanks and line breaks in turn, so it never sees a long gap.
_WINDOW = 1 << 12
_GAP = 256
_gap = re.compile(rf"\s{{{_GAP},}}").search
_blank = re.compile(r"\s*").match
_LOOK = 1 << 16
"""Looked through at a time: a search lets nobody else have the interpreter until it ends."""


def split(text: str, size: int, overlap: int) -> list[DraftChunk]:
    """The chunks of `text` in order, each at most `size` characters, `text[start:end]` verbatim.

    White space around a chunk is left out; a text of nothing else has no chunks. Neighbours share
    up to `overlap` characters, as whole sentences or words, so often fewer. Equal input gives
    equal chunks. Raises `InvalidLibrary` unless 0 ≤ `overlap` < `size`, and `InvalidDocument` for
    a long text with half a surrogate pair in it.
    """
    if not 0 <= overlap < size:
        raise InvalidLibrary(
            f"chunk_overlap is {overlap} and chunk_size {size}; choose 0 <= chunk_overlap < "
            "chunk_size"
        )
    if len(text) <= size:
        return [_whole(text)] if text and not text.isspace() else []
    try:
        pieces = list(_pieces(text, size, overlap))
    except UnicodeEncodeError as error:
        raise InvalidDocument(
            f"the text is not valid Unicode: character {error.start} is half a surrogate pair"
        ) from error
    return [DraftChunk(piece, start, start + len(piece)) for start, piece in pieces]


def _whole(text: str) -> DraftChunk:
    body = text.strip()
    start = 0 if len(body) == len(text) else text.index(body)
    return DraftChunk(body, start, start + len(body))


def _pieces(text: str, size: int, overlap: int) -> Iterator[tuple[int, str]]:
    start = 0
    for gap, end in _gaps(text):
        yield from _windows(text, start, gap, size, overlap)
        start = end
    yield from _windows(text, start, len(text), size, overlap)


def _gaps(text: str) -> Iterator[tuple[int, int]]:
    """Where long stretches of white space begin and end."""
    at = 0
    while at + _GAP <= len(text):
        found = _gap(text, at, at + _LOOK)
        if found is None:
            at += _LOOK - _GAP + 1  # one may begin just before the end of what was looked through
            continue
        start, at = found.span()
        while (more := _blank(text, at, at + _LOOK)) and more.end() > at:
            at = more.end()
        yield start, at


def _windows(text: str, base: int, end: int, size: int, overlap: int) -> Iterator[tuple[int, str]]:
    splitter = _splitter(size, overlap)
    window = max(_WINDOW, 12 * size)
    while base < end:
        until = min(base + window, end)
        found = [(base + at, piece) for at, piece in splitter.chunk_indices(text[base:until])]
        base = until
        if until < end and len(found) > 1:
            # The window cut the last chunk short: begin the next window with it.
            base = found.pop()[0]
        yield from found


@lru_cache(maxsize=64)
def _splitter(size: int, overlap: int) -> TextSplitter:
    # Never changes once built and lets go of the GIL while it splits, so threads share it.
    return TextSplitter(size, overlap=overlap)
