"""Queries of any length and shape: what they become, and that none is out of all proportion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from search.keyword_house import KeywordHouse, keyword_house

from headwater.search.highlight import highlight
from headwater.search.wording import clauses

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[KeywordHouse]:
    async with keyword_house(tmp_path) as house:
        yield house


async def test_a_word_said_twice_counts_twice(house: KeywordHouse) -> None:
    library = await house.library()
    await house.put(library, "d", "red wine and bread", title="wine")
    await house.put(library, "e", "white wine")
    _, once, _ = await house.views.search(library, "wine", 10)
    _, often, _ = await house.views.search(library, "wine " * 7, 10)
    assert often.tolist() == pytest.approx((7 * once).tolist(), rel=1e-5)
    assert await house.found(library, "wine -white -white wine") == ["red wine and bread"]
    assert await house.found(library, "+wine +wine +red") == ["red wine and bread"]


async def test_the_end_of_an_endless_phrase_is_passed_over(house: KeywordHouse) -> None:
    library = await house.library()
    text = " ".join(f"w{number}" for number in range(40))
    await house.put(library, "d", text)
    assert [len(clause.words) for clause in clauses(f'"{text}"', "none")] == [32]
    assert [len(clause.words) for clause in clauses(text.replace(" ", "."), "none")] == [32]
    assert await house.found(library, f'"{text} and something else"') == [text]
    assert await house.found(library, f'"{text[3:]} w0"') == [text]
    assert await house.found(library, '"w0 w2"') == []


async def test_two_signs_are_none(house: KeywordHouse) -> None:
    library = await house.library()
    await house.put(library, "d", "curl sends it with --data")
    await house.put(library, "e", "curl sends nothing")
    for query in ("--data", "+-data", "++data"):
        assert await house.found(library, query) == ["curl sends it with --data"]
    assert await house.found(library, "curl -data") == ["curl sends nothing"]
    assert await house.found(library, "curl - data -- +") == [
        "curl sends it with --data",
        "curl sends nothing",
    ]


def test_a_word_asked_for_a_thousand_times_is_marked_once() -> None:
    found = highlight("a b a b", "a " * 1_000, "none")
    assert [mark.start for mark in found.marks] == [0, 4]
    whole = highlight("a b a b", '"b a"' * 100, "none")
    assert [mark.start for mark in whole.marks] == [2, 4]
