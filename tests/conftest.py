"""Shared by all tests: async tests run on asyncio, under AnyIO's pytest plugin."""

from collections.abc import Iterator

import pytest
from heard import Heard, hearing


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What this test's parts log, to wait for."""
    with hearing() as heard:
        yield heard
