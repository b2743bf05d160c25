"""A fake provider, and a remote embedder of each kind on it, for each test that asks for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embed.provider import FakeProvider
from embed.remote import PROVIDERS, Make
from pydantic import SecretStr

from headwater.clock import Clock, SystemClock
from headwater.embed import plugins
from headwater.embed.remote import RemoteEmbedder
from headwater.settings import EmbedSettings


@pytest.fixture
def fake() -> Iterator[FakeProvider]:
    provider = FakeProvider()
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture(params=sorted(PROVIDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(fake: FakeProvider, kind: str) -> Make:
    """An embedder of the fake, with short waits; `settings` as keywords."""

    def make(
        dimension: int | None = 8,
        key: str | None = None,
        clock: Clock | None = None,
        **settings: Any,
    ) -> RemoteEmbedder:
        quick = {"backoff": 0.01, "backoff_max": 0.02, "linger_ms": 1, "breaker_open": 0.05}
        provider = PROVIDERS[kind]("model-1", fake.url, SecretStr(key) if key else None)
        return RemoteEmbedder(
            provider, dimension, EmbedSettings(**{**quick, **settings}), clock or SystemClock()
        )

    return make


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
