from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cli.fake_server import FakeServer

from headwater.cli import main

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def run() -> Run:
    """Run the command line in this process and return its exit code."""

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        code = stopped.value.code
        assert isinstance(code, int)
        return code

    return call
