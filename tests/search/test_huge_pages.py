"""Advice about memory: it changes no byte, whatever it is given."""

from __future__ import annotations

import numpy as np
import pytest

from headwater.search.huge_pages import advise


@pytest.mark.parametrize("size", [0, 1, 4096, (4 << 20) - 1, 4 << 20, (9 << 20) + 17])
@pytest.mark.parametrize("offset", [0, 1, 4095])
def test_advice_keeps_what_is_there(size: int, offset: int) -> None:
    array = np.frombuffer(np.random.default_rng(size).bytes(size + offset + 1), np.uint8).copy()
    before = array.copy()
    advise(array.ctypes.data + offset, size)
    assert np.array_equal(array, before)


def test_advice_about_memory_that_is_not_there_is_harmless() -> None:
    advise(1 << 46, 64 << 20)
