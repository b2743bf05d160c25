"""The ring: recent commits, whole, and never a guess about what is not in it."""

from __future__ import annotations

from headwater.changes import Ring
from headwater.model import Change, Committed


def commit(after: int, *positions: int, size: int = 0) -> Committed:
    changes = tuple(
        Change(position, 0, "document.added", "library", f"d{position}", b"x" * size)
        for position in positions
    )
    return Committed(after, positions[-1], changes)


def test_an_empty_ring_knows_nothing() -> None:
    ring = Ring(10_000)
    assert ring.after(0) is None
    assert ring.next_start(0) is None


def test_a_commit_answers_for_every_position_it_covers() -> None:
    ring = Ring(10_000)
    first, second = commit(10, 12, 13), commit(13, 14, 20)
    ring.append(first)
    ring.append(second)
    assert ring.after(9) is None  # before the ring: read the store
    assert ring.after(10) is first
    assert ring.after(11) is first  # a gap of positions inside the commit
    assert ring.after(12) is first  # inside: given whole
    assert ring.after(13) is second
    assert ring.after(19) is second
    assert ring.after(20) is None  # at the head: wait


def test_a_gap_of_another_process_is_read_from_the_store() -> None:
    ring = Ring(10_000)
    ours, later = commit(0, 1, 2), commit(5, 6)  # 3 to 5 were committed elsewhere
    ring.append(ours)
    ring.append(later)
    assert ring.after(1) is ours
    assert ring.after(2) is None
    assert ring.after(4) is None
    assert ring.next_start(2) == 5  # the store is read no further than this
    assert ring.next_start(4) == 5
    assert ring.after(5) is later
    assert ring.next_start(6) is None


def test_the_oldest_go_first_and_the_newest_always_stays() -> None:
    ring = Ring(3_000)
    for position in range(1, 11):
        ring.append(commit(position - 1, position, size=744))  # 1,000 bytes each
    assert ring.size_bytes == 3_000
    assert ring.after(6) is None
    assert ring.after(7) is not None
    ring.append(commit(10, 11, size=50_000))
    assert ring.after(9) is None
    assert ring.after(10) is not None
    assert ring.size_bytes == 50_256
