"""Shared by all tests: async tests run on asyncio, under AnyIO's pytest plugin."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
