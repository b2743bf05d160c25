"""Cuts a document's text into the passages that are embedded and found.

Called from preparing threads, many at once, for every document that comes as `text`. Breaks fall
at the largest boundary that fits: paragraphs, lines, sentences, words, graphemes. Offsets are
characters of the text that was given; the text itself is never changed, or a hit could not be
shown in its place.
"""

from __future__ import annotations

from functools import lru_cache

from semantic_text_splitter import TextSplitter

from headwater.errors import InvalidDocument, InvalidLibrary
from headwater.model import DraftChunk

# The splitter's time grows with the square of a stretch without line breaks: 1 M characters take
# it 6 to 11 s in one piece, 0.1 to 0.7 s in windows of this many or of twelve chunks.
_WINDOW = 1 << 12


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
        pieces = _windows(text, size, overlap)
    except UnicodeEncodeError as error:
        raise InvalidDocument(
            f"the text is not valid Unicode: character {error.start} is half a surrogate pair"
        ) from error
    return [DraftChunk(piece, start, start + len(piece)) for start, piece in pieces]


def _whole(text: str) -> DraftChunk:
    body = text.strip()
    start = 0 if len(body) == len(text) else text.index(body)
    return DraftChunk(body, start, start + len(body))


def _windows(text: str, size: int, overlap: int) -> list[tuple[int, str]]:
    splitter = _splitter(size, overlap)
    window = max(_WINDOW, 12 * size)
    chunks: list[tuple[int, str]] = []
    base = 0
    while base < len(text):
        found = [
            (base + start, piece)
            for start, piece in splitter.chunk_indices(text[base : base + window])
        ]
        if base + window >= len(text):
            return chunks + found
        if len(found) > 1:
            # The window cut the last chunk short: begin the next window with it.
            base = found.pop()[0]
        else:
            base += window
        chunks += found
    return chunks


@lru_cache(maxsize=64)
def _splitter(size: int, overlap: int) -> TextSplitter:
    # Never changes once built and lets go of the GIL while it splits, so threads share it.
    return TextSplitter(size, overlap=overlap)
