"""What is remembered of hits that are gone is bounded, and the newest of it is kept."""

from __future__ import annotations

import pytest

from headwater.live.marks import MOST_FATE_BYTES, MOST_FATES, Marks
from headwater.model import Change, Span


def removal(position: int, size: int) -> Change:
    data = b'{"metadata":{"x":"%b"}}' % (b"x" * size)
    return Change(position, 0, "document.deleted", "l", f"d{position}", data, removed=Span(1, 1))


@pytest.mark.parametrize(
    ("size", "kept"), [(1, MOST_FATES), (1 << 20, 7), (MOST_FATE_BYTES, 0)], ids=str
)
def test_fates_are_bounded_by_number_and_by_size(size: int, kept: int) -> None:
    marks = Marks()
    count = kept + 100
    for position in range(1, count + 1):
        change = removal(position, size)
        for _ in range(2):  # told again, it is not counted again
            marks.note({}, {change.subject}, [change])
    known = [at for at in range(1, count + 1) if marks.fate(f"d{at}", 0) is not None]
    assert known == list(range(count - kept + 1, count + 1))
