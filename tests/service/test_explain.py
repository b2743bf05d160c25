"""What an explanation says of where the time went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from service.whole import put, whole

from headwater.clock import SystemClock
from headwater.search.base import Neighbours
from headwater.search.rowsets import NO_ROWS
from headwater.service.explain import Explanation
from headwater.service.query import Query, check
from headwater.settings import LimitSettings

pytestmark = pytest.mark.anyio


class Hand(SystemClock):
    """A clock that is moved by hand."""

    at_s = 0.0

    def monotonic(self) -> float:
        return self.at_s


async def test_legs_that_run_side_by_side_are_told_their_own_time(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes")
    clock = Hand()
    explanation = Explanation(clock)
    clock.at_s = 0.001
    explanation.lap("embed")
    near_s = words_s = explanation.now_s()
    clock.at_s = 0.006
    explanation.words(3, words_s, by_name=False)
    clock.at_s = 0.007
    explanation.near(Neighbours(NO_ROWS, np.empty(0, np.float32), 1, True), near_s)
    clock.at_s = 0.009
    explanation.lap("fetch")
    clock.at_s = 0.010
    explanation.lap("fetch")
    told = explanation.told(check(Query(query="sea"), library, LimitSettings()))
    took = {name: part["took_ms"] for name, part in told.items() if name != "mode"}
    assert took == {"embed": 1.0, "keyword": 5.0, "vector": 6.0, "fetch": 3.0}


async def test_a_search_for_groups_tells_all_its_parts(tmp_path: Path) -> None:
    async with whole(tmp_path) as parts:
        library = await parts.libraries.create("notes")
        for number in range(3):
            await put(parts, library, f"d{number}", [("the moon", None)] * 20)
        asked = Query(query="moon", k=3, group_by="document", group_size=1, explain=True)
        answer = await parts.search.search(library, asked)
        assert set(answer.explanation or {}) == {"mode", "embed", "vector", "keyword", "fetch"}
