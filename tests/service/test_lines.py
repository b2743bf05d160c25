"""NDJSON framing: however the bytes are cut, the lines and their numbers are the same."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.service.lines import BOM, Line, LineSplitter

LIMIT = 8

# Bodies near the limit, blanks, line endings and marks: what the splitter decides about.
atoms = st.sampled_from(
    [b"\n", b"\r\n", b"\r", b" ", b"\t", b"a", b"{}", b"x" * LIMIT, b"y" * (LIMIT + 1), BOM]
)
texts = st.lists(atoms, max_size=30).map(b"".join)


def split(pieces: Iterable[bytes], limit: int = LIMIT) -> list[Line]:
    splitter = LineSplitter(limit)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish()


def as_the_format_says(text: bytes, limit: int = LIMIT) -> list[Line]:
    lines = []
    for number, body in enumerate(text.removeprefix(BOM).split(b"\n"), 1):
        body = body.removesuffix(b"\r")
        if len(body) > limit:
            lines.append(Line(number, None))
        elif body.strip():
            lines.append(Line(number, body))
    return lines


@given(texts, st.lists(st.integers(0, 120), max_size=12))
@example(BOM + b"x" * LIMIT + b"\r\n", [1, 2, 3, 4, 5])
@example(b"y" * (LIMIT + 1), [LIMIT])
def test_any_cut_gives_the_lines_of_the_whole(text: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert split(pieces) == as_the_format_says(text)


@given(texts)
def test_byte_by_byte_gives_the_same_as_at_once(text: bytes) -> None:
    assert split(text[i : i + 1] for i in range(len(text))) == split([text])


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_line_of_just_the_limit_passes_whatever_its_ending(ending: bytes) -> None:
    whole = b"x" * LIMIT
    assert split([whole + ending] * 2) == [Line(1, whole), Line(2, whole)]
    assert split([BOM + whole + ending]) == [Line(1, whole)]


def test_a_byte_order_mark_counts_only_at_the_very_start() -> None:
    assert split([BOM + b"a\n" + BOM + b"b\n"]) == [Line(1, b"a"), Line(2, BOM + b"b")]
    assert split([BOM]) == []


def test_blank_lines_are_dropped_and_counted() -> None:
    assert split([b"\n \t\n\r\na\n\n\nb"]) == [Line(4, b"a"), Line(7, b"b")]


def test_the_last_line_needs_no_newline() -> None:
    assert split([b"a\nb"]) == [Line(1, b"a"), Line(2, b"b")]
    assert split([b"a\nb\n"]) == [Line(1, b"a"), Line(2, b"b")]
    assert split([b"a\r"]) == [Line(1, b"a")]


def test_an_empty_body_has_no_lines() -> None:
    assert split([]) == []
    assert split([b"", b""]) == []


def test_an_endless_line_is_not_held_and_harms_no_neighbour() -> None:
    splitter = LineSplitter(LIMIT)
    assert splitter.feed(b"a\n") == [Line(1, b"a")]
    for _ in range(1_000):
        assert splitter.feed(b"z" * 100) == []
        assert sum(len(part) for part in splitter._parts) <= LIMIT + len(BOM) + 1
    assert splitter.feed(b"\nb\n") == [Line(2, None), Line(3, b"b")]
    assert splitter.finish() == []
