"""Fusing, paging and spreading rankings, against the same written out slowly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import InvalidCursor
from headwater.service.paging import PageToken
from headwater.service.ranking import Leg, Ranked, after, diverse, fused, single, without

ROWS = st.lists(st.integers(1, 30), unique=True, max_size=12)


def leg(rows: list[int]) -> Leg:
    return Leg(np.array(rows, np.int64), np.arange(len(rows), 0, -1, dtype=np.float64))


@given(ROWS, ROWS, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_fusion_adds_weighted_reciprocal_ranks(
    vector: list[int], keyword: list[int], weight: float
) -> None:
    ranked = fused(
        {"vector": leg(vector), "keyword": leg(keyword)}, {"vector": 1.0, "keyword": weight}
    )
    expected: dict[int, float] = {}
    for rows, share in ((vector, 1.0), (keyword, weight)):
        for rank, row in enumerate(rows, 1):
            expected[row] = expected.get(row, 0.0) + share / (60 + rank)
    best = sorted((-score, row) for row, score in expected.items() if score)
    assert ranked.rows.tolist() == [row for _, row in best]
    assert ranked.scores.tolist() == pytest.approx([-score for score, _ in best])
    for row in ranked.rows.tolist():
        for name, rows in (("vector", vector), ("keyword", keyword)):
            place = ranked.legs[name].get(row)
            assert (place is None) == (row not in rows)
            assert place is None or place[0] == rows.index(row) + 1


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=12), st.integers(1, 5))
def test_pages_join_to_the_whole_order(scores: list[float], size: int) -> None:
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    ranked = Ranked(np.array(order, np.int64), np.array([scores[at] for at in order]))
    seen: list[int] = []
    page = ranked.pick(slice(size))
    while len(page):
        seen += page.rows.tolist()
        page = after(ranked, float(page.scores[-1]), int(page.rows[-1])).pick(slice(size))
    assert seen == order


def test_diversity_skips_a_copy_of_what_was_picked() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    ranked = Ranked(np.array([7, 8, 9], np.int64), np.array([0.9, 0.89, 0.5]))
    assert diverse(ranked, vectors, 1.0, 3).rows.tolist() == [7, 8, 9]
    assert diverse(ranked, vectors, 0.3, 2).rows.tolist() == [7, 9]
    assert diverse(ranked.pick(slice(0)), vectors[:0], 0.5, 2).rows.tolist() == []


@given(st.integers(0, 1 << 30), st.integers(1, 8), st.sampled_from([0.0, 0.4, 1.0]))
def test_diversity_equals_the_textbook(seed: int, k: int, relevance: float) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(8, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sort(random.random(8))[::-1]
    picked = diverse(Ranked(np.arange(8), scores), vectors, relevance, k).rows.tolist()
    relevant = (scores - scores.min()) / (scores.max() - scores.min())
    chosen: list[int] = []
    while len(chosen) < k:

        def worth(at: int, chosen: list[int] = chosen) -> float:
            near = max((float(vectors[at] @ vectors[other]) for other in chosen), default=0.0)
            return float(relevance * relevant[at] - (1 - relevance) * near)

        left = [at for at in range(8) if at not in chosen]
        chosen.append(max(left, key=lambda at: (worth(at), -at)))
    assert picked == chosen


def test_rows_are_left_out() -> None:
    ranked = single(leg([5, 3, 9]))
    assert without(ranked, np.array([3, 4], np.int64)).rows.tolist() == [5, 9]


def test_page_token_goes_there_and_back() -> None:
    token = PageToken("0123456789ab", 0.1 + 0.2, 1 << 40, 20, 200)
    assert PageToken.parse(str(token), "0123456789ab") == token


@pytest.mark.parametrize("text", ["", "x", "!!", "A" * 40, "é", "A" * 200])
def test_what_is_no_page_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        PageToken.parse(text, "0123456789ab")


def test_page_token_of_another_search_is_refused() -> None:
    text = str(PageToken("0123456789ab", 0.5, 1, 10, 0))
    with pytest.raises(InvalidCursor, match="another search"):
        PageToken.parse(text, "ba9876543210")
