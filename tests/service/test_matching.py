"""Finding documents by a filter, a bounded stretch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from headwater.filters import parse
from headwater.model import NOTHING, Described
from headwater.service.matching import find

FIVES = parse({"five": True})


def stored(count: int) -> list[Described]:
    return [
        Described(row, f"d{row}", b'{"five":%b}' % (b"false" if row % 5 else b"true"), NOTHING, 1)
        for row in range(1, count + 1)
    ]


def ask(documents: Sequence[Described], after: int, limit: int) -> tuple[list[int], int | None]:
    def read(after_row: int, count: int) -> list[Described]:
        return [one for one in documents if one.row > after_row][:count]

    found, next_row = find(read, FIVES, after, limit, scanned=500)
    return [one.row for one in found], next_row


@pytest.mark.parametrize(
    ("count", "after", "limit", "rows", "next_row"),
    [
        (0, 0, 3, [], None),
        (4, 0, 3, [], None),
        (15, 0, 2, [5, 10], 10),
        (15, 10, 2, [15], None),
        (15, 0, 3, [5, 10, 15], None),  # just full, and nothing after it
        (16, 0, 3, [5, 10, 15], 15),
        (1_000, 0, 1_000, list(range(5, 501, 5)), 500),  # as far as one look goes
        (1_000, 500, 1_000, list(range(505, 1_001, 5)), 1_000),
        (1_000, 1_000, 1_000, [], None),
    ],
)
def test_a_stretch_and_where_to_go_on(
    count: int, after: int, limit: int, rows: list[int], next_row: int | None
) -> None:
    assert ask(stored(count), after, limit) == (rows, next_row)
