"""Every embedder is held to the contract that plug-in authors are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from embed.packages import stand_in
from embed.plugin import Letters
from embed.provider import FakeProvider, vectors

from headwater.clock import SystemClock
from headwater.embed import Embedder, StaticEmbedder, plugins
from headwater.embed.base import Kind
from headwater.embed.cohere import Cohere
from headwater.embed.contract import EmbedderContract, check
from headwater.embed.fastembed import FastEmbed
from headwater.embed.hosted import Hosted
from headwater.embed.openai import OpenAI
from headwater.embed.provider import Provider
from headwater.embed.query_cache import QueryCache
from headwater.embed.remote import RemoteEmbedder
from headwater.embed.sentence_transformers import SentenceTransformers
from headwater.model import Vectors
from headwater.settings import EmbedSettings


class TestStatic(EmbedderContract):
    def make(self) -> Embedder:
        return StaticEmbedder()


class TestHosted(EmbedderContract):
    def make(self) -> Embedder:
        static = StaticEmbedder()
        return Hosted(
            "static",
            lambda: static,
            QueryCache(1 << 20),
            SystemClock(),
            identity=static.identity,
            dimension=static.dimension,
        )


class Remote(EmbedderContract):
    provider: type[Provider]
    dimension: int | None = None
    settings = EmbedSettings()

    @pytest.fixture(autouse=True)
    def _provider(self, fake: FakeProvider) -> None:
        fake.max_inputs = 50
        self.fake = fake

    def make(self) -> Embedder:
        provider = self.provider("m", self.fake.url, None)
        return RemoteEmbedder(provider, self.dimension, self.settings, SystemClock())


class TestOpenAI(Remote):
    provider = OpenAI
    settings = EmbedSettings(max_inputs=64)


class TestOpenAIOfAnotherWidth(Remote):
    provider = OpenAI
    dimension = 4


class TestCohere(Remote):
    provider = Cohere


class _StubTextEmbedding:
    """What of fastembed's class is used."""

    def __init__(self, model_name: str) -> None:
        assert model_name == "stub"

    def passage_embed(self, texts: list[str], batch_size: int) -> Iterator[Any]:
        yield from vectors(texts) * 5

    def query_embed(self, texts: list[str]) -> Iterator[Any]:
        yield from vectors(texts) * 5


class _StubSentenceTransformer:
    """What of sentence-transformers' class is used, in the form before version 5."""

    def __init__(self, name: str, trust_remote_code: bool) -> None:
        assert name == "stub"
        assert not trust_remote_code

    def encode(
        self,
        texts: list[str],
        *,
        batch_size: int,
        convert_to_numpy: bool,
        normalize_embeddings: bool,
        show_progress_bar: bool,
    ) -> Any:
        assert not show_progress_bar
        return vectors(texts)


class TestFastEmbed(EmbedderContract):
    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in(monkeypatch, "fastembed", TextEmbedding=_StubTextEmbedding)

    def make(self) -> Embedder:
        return FastEmbed("fastembed", "stub")


class TestSentenceTransformers(EmbedderContract):
    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stub = _StubSentenceTransformer
        stand_in(monkeypatch, "sentence_transformers", SentenceTransformer=stub)

    def make(self) -> Embedder:
        return SentenceTransformers("sentence-transformers", "stub")


class TestPlugin(EmbedderContract):
    """The worked example of docs/embedders.md, found by its entry point."""

    @pytest.fixture(autouse=True)
    def _installed(self, plugin: None) -> None:
        """`plugin` puts it on the path."""

    def make(self) -> Embedder:
        return plugins.make(plugins.declared()["letters"], "")


def test_the_documented_plugin_is_the_tested_one() -> None:
    page = (Path(__file__).parents[2] / "docs/embedders.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    source = (Path(__file__).parent / "plugin.py").read_text()
    assert source.partition("from __future__")[2].strip() in [
        block.partition("from __future__")[2].strip() for block in blocks
    ]


class _Wrong(Letters):
    """Breaks one promise, as `flaw` says."""

    def __init__(self, flaw: str) -> None:
        super().__init__("")
        self.flaw = flaw

    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        found = await super().embed(texts, kind)
        match self.flaw:
            case "float32":
                return found.astype(np.float64)
            case "lengths":
                return found * 2
            case "shape":
                return found[:, 1:]
            case "order":
                return found[::-1]
            case "list of texts was changed" if isinstance(texts, list):
                texts.append("")
            case "not finite":
                return found * np.float32("nan")
        return found


@pytest.mark.parametrize(
    "flaw", ["float32", "lengths", "shape", "order", "list of texts was changed", "not finite"]
)
def test_the_contract_finds_what_is_wrong(flaw: str) -> None:
    with pytest.raises(AssertionError, match=flaw):
        anyio.run(check, lambda: _Wrong(flaw))


def test_the_contract_runs_without_pytest() -> None:
    anyio.run(check, lambda: Letters(""))
