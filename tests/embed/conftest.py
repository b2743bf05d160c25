"""A fake provider for each test that asks for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from embed.provider import FakeProvider

from headwater.embed import plugins


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in of plugin.py, installed as a package would be: module and entry point."""
    source = Path(__file__).with_name("plugin.py")
    (tmp_path / "letters.py").write_text(source.read_text())
    described = tmp_path / "letters-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        "[headwater.embedders]\n"
        "letters = letters:Letters\n"
        "missing = no_such_module:make\n"
        "wrong = builtins:str\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.declared.cache_clear()
    yield
    plugins.declared.cache_clear()
    sys.modules.pop("letters", None)
