"""Chunks: verbatim slices that cover the text, within the size, overlapping a little."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.embed import chunk_text
from headwater.errors import InvalidDocument, InvalidLibrary
from headwater.model import DraftChunk

LEGAL = st.characters(exclude_categories=["Cs"])
PIECES = st.sampled_from(
    ["word ", "longer-word, ", "End. ", "\n", "\r\n", "\n\n", "\t", "   ", "é", "e\u0301", "日本語",
     "👩‍👩‍👧", "🇫🇷", "x" * 40, "\u00a0", "\u2028", "\u200b"]
)  # fmt: skip
TEXTS = st.one_of(st.text(LEGAL, max_size=400), st.lists(PIECES, max_size=300).map("".join))


def check(text: str, chunks: list[DraftChunk], size: int) -> None:
    covered = [False] * len(text)
    previous = (-1, -1)
    for chunk in chunks:
        assert chunk.text is not None
        assert chunk.start is not None
        assert chunk.end is not None
        assert text[chunk.start : chunk.end] == chunk.text
        assert 0 < len(chunk.text) <= size
        assert previous < (chunk.start, chunk.end), "chunks go forward"
        previous = (chunk.start, chunk.end)
        covered[chunk.start : chunk.end] = [True] * len(chunk.text)
    missed = [c for c, seen in zip(text, covered, strict=True) if not seen and not c.isspace()]
    assert not missed


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 120), st.integers(0, 119))
@example("a\r\nb\r\nc " * 40, 20, 5)
@example(" " * 500 + "a" + " " * 500, 10, 2)
def test_chunks_are_slices_that_cover_the_text(text: str, size: int, overlap: int) -> None:
    check(text, chunk_text(text, size, min(overlap, size - 1)), size)


@settings(max_examples=25, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=12).map("".join), st.sampled_from([50, 200, 900]))
def test_texts_longer_than_a_window_are_covered_too(piece: str, size: int) -> None:
    text = (piece + " ") * (25_000 // len(piece + " "))
    check(text, chunk_text(text, size, size // 10), size)


def test_white_space_between_windows_ends_no_text() -> None:
    text = "start" + " " * 30_000 + "middle" + " \n" * 30_000 + "end"
    assert [chunk.text for chunk in chunk_text(text, 100, 10)] == ["start", "middle", "end"]


@pytest.mark.parametrize("size", [256, 70_000, 200_000])
@pytest.mark.parametrize("before", [65_000, 65_279, 65_280, 65_281, 65_535, 65_536, 65_537])
def test_no_chunk_spans_a_long_gap_wherever_it_begins(before: int, size: int) -> None:
    start = "a" * before
    chunks = chunk_text(start + " " * size + "end " * 400, 1_000, 0)
    texts = [chunk.text or "" for chunk in chunks]
    assert "".join(text for text in texts if "a" in text) == start
    assert all("end" not in text for text in texts if "a" in text)


def test_a_short_text_is_one_chunk() -> None:
    assert chunk_text("  Hello there.\n", 100, 10) == [DraftChunk("Hello there.", 2, 14)]
    assert chunk_text("x" * 100, 100, 10) == [DraftChunk("x" * 100, 0, 100)]


@pytest.mark.parametrize("text", ["", " ", "\r\n\t \u2003", " \n" * 5_000])
def test_nothing_but_white_space_has_no_chunks(text: str) -> None:
    assert chunk_text(text, 100, 10) == []


def test_neighbours_overlap_about_as_much_as_was_asked_for() -> None:
    text = " ".join(f"word{n}" for n in range(5_000))
    chunks = chunk_text(text, 500, 60)
    shared = [(left.end or 0) - (right.start or 0) for left, right in pairwise(chunks)]
    assert max(shared) <= 60
    assert sum(shared) / len(shared) > 40
    plain = chunk_text(text, 500, 0)
    assert all((a.end or 0) <= (b.start or 0) for a, b in pairwise(plain))


def test_breaks_fall_between_paragraphs_where_they_can() -> None:
    paragraphs = [f"Paragraph {n}. " + "It says something. " * 8 for n in range(60)]
    chunks = chunk_text("\n\n".join(paragraphs), 200, 0)
    assert [chunk.text for chunk in chunks] == [paragraph.strip() for paragraph in paragraphs]


@pytest.mark.parametrize(("size", "overlap"), [(100, 100), (100, 101), (100, -1), (0, 0)])
def test_an_overlap_that_cannot_be_is_refused(size: int, overlap: int) -> None:
    with pytest.raises(InvalidLibrary, match="chunk_overlap"):
        chunk_text("some text", size, overlap)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="Unicode"):
        chunk_text("word " * 100 + "\ud800", 100, 10)


def test_threads_may_share_a_splitter() -> None:
    text = "One sentence after another. " * 2_000
    expected = chunk_text(text, 300, 30)
    results: list[list[DraftChunk]] = []
    threads = [
        threading.Thread(target=lambda: results.append(chunk_text(text, 300, 30))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
