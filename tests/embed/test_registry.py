"""Which embedder a library gets, and when it is refused one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import numpy as np
import pytest
from embed.provider import FakeProvider, vectors

from headwater.embed import Embedders, NoneEmbedder
from headwater.errors import (
    EmbedderFailed,
    EmbedderMismatch,
    EmbedderUnavailable,
    InvalidDocument,
    InvalidLibrary,
    InvalidQuery,
)
from headwater.model import Library
from headwater.settings import EmbedSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def embedders() -> Embedders:
    return Embedders()


def library(embedder: str, identity: str, dimension: int) -> Library:
    return Library(
        number=1,
        id="0190",
        name="books",
        description=None,
        embedder=embedder,
        embedder_identity=identity,
        dimension=dimension,
        metric="cosine",
        chunk_size=1000,
        chunk_overlap=100,
        metadata={},
        version=1,
        documents=0,
        chunks=0,
        created_us=0,
        updated_us=0,
        position=0,
    )


def test_an_unknown_embedder_is_refused_with_the_known_ones(embedders: Embedders) -> None:
    with pytest.raises(InvalidLibrary, match=r"fastembed:<model>, none, .* static"):
        embedders.get("magic")


async def test_static_brings_its_dimension(embedders: Embedders) -> None:
    identity = embedders.get("static").identity
    assert await embedders.describe("static", None) == (identity, 256)
    assert await embedders.describe("static", 256) == (identity, 256)
    with pytest.raises(InvalidLibrary, match="256 dimensions, not 384"):
        await embedders.describe("static", 384)


async def test_none_needs_a_dimension(embedders: Embedders) -> None:
    assert await embedders.describe("none", 3) == ("none", 3)
    for dimension in (None, 0, -1):
        with pytest.raises(InvalidLibrary, match="dimension"):
            await embedders.describe("none", dimension)


async def test_a_library_gets_the_embedder_it_was_made_with(embedders: Embedders) -> None:
    identity, dimension = await embedders.describe("static", None)
    assert embedders.bound(library("static", identity, dimension)) is embedders.get("static")
    bound = embedders.bound(library("none", "none", 7))
    assert (bound.name, bound.dimension) == ("none", 7)


@pytest.mark.parametrize(
    ("name", "identity"), [("static", "static:other:0123"), ("magic", "magic:1")]
)
def test_a_library_of_another_model_is_refused(
    embedders: Embedders, name: str, identity: str
) -> None:
    with pytest.raises(EmbedderMismatch) as caught:
        embedders.bound(library(name, identity, 256))
    assert caught.value.fields["stored"] == identity
    assert caught.value.fields["running"] != identity


async def test_none_asks_for_vectors() -> None:
    embedder = NoneEmbedder(3)
    assert (await embedder.embed([])).shape == (0, 3)
    with pytest.raises(InvalidDocument, match="`vector`, a vector of 3 numbers"):
        await embedder.embed(["text"])
    with pytest.raises(InvalidQuery, match="search with `vector`"):
        await embedder.embed(["text"], "query")


async def test_all_run_and_stop_together() -> None:
    embedders = Embedders()
    async with anyio.create_task_group() as group:
        await group.start(embedders.run)
        vectors = await embedders.get("static").embed(["a boat"])
        assert vectors.shape == (1, 256)
        group.cancel_scope.cancel()


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Embedders]:
    quick = {"retries": 0, "query_deadline": 2.0}
    embedders = Embedders(EmbedSettings(**{**quick, **settings}))
    async with anyio.create_task_group() as group:
        await group.start(embedders.run)
        yield embedders
        group.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["openai", "cohere:", "fastembed", "static:x", "none:3", "a\nb"])
def test_a_name_without_its_model_or_with_one_too_many_is_refused(
    embedders: Embedders, name: str
) -> None:
    with pytest.raises(InvalidLibrary):
        embedders.get(name)


@pytest.mark.parametrize("kind", ["openai", "cohere"])
async def test_a_provider_is_asked_for_its_dimension(fake: FakeProvider, kind: str) -> None:
    async with running(**{f"{kind}_base_url": fake.url}) as embedders:
        name = f"{kind}:m:latest"
        identity = f"{name}:8@127.0.0.1:{fake.port}"
        assert await embedders.describe(name, None) == (identity, 8)
        assert await embedders.describe(name, None) == (identity, 8)
        bound = embedders.bound(library(name, identity, 8))
        assert np.allclose(await bound.embed(["a"]), vectors(["a"]), atol=1e-6)
        assert len(embedders.statistics()["embedders"]) == 2  # and the bundled one


async def test_libraries_of_two_widths_have_an_embedder_each(fake: FakeProvider) -> None:
    async with running(openai_base_url=fake.url) as embedders:
        narrow, _ = await embedders.describe("openai:m", 4)
        wide, _ = await embedders.describe("openai:m", 8)
        assert narrow != wide
        for identity, width in ((narrow, 4), (wide, 8)):
            found = await embedders.bound(library("openai:m", identity, width)).embed(["a"])
            assert np.allclose(found, vectors(["a"], width), atol=1e-6)


async def test_an_unreachable_provider_needs_the_dimension_said(fake: FakeProvider) -> None:
    fake.stop()
    async with running(openai_base_url=fake.url) as embedders:
        with pytest.raises(EmbedderUnavailable, match="cannot be reached"):
            await embedders.describe("openai:m", None)
        identity, dimension = await embedders.describe("openai:m", 8)
        assert (identity, dimension) == (f"openai:m:8@127.0.0.1:{fake.port}", 8)
        bound = embedders.bound(library("openai:m", identity, 8))
        with pytest.raises(EmbedderUnavailable):
            await bound.embed(["a"])
        fake.start()
        assert await embedders.describe("openai:m", None) == (identity, 8)
        assert (await bound.embed(["a"])).shape == (1, 8)


async def test_a_wrong_model_or_width_is_told_when_the_library_is_made(fake: FakeProvider) -> None:
    fake.models = {"good"}
    fake.narrows = False
    async with running(openai_base_url=fake.url) as embedders:
        for dimension in (None, 8):
            with pytest.raises(EmbedderFailed, match="does not have the model"):
                await embedders.describe("openai:bad", dimension)
        with pytest.raises(EmbedderFailed, match="of 8 dimensions, also when asked for 3"):
            await embedders.describe("openai:good", 3)
        assert len(embedders.statistics()["embedders"]) == 1, "none of them was kept"
        assert (await embedders.describe("openai:good", 8))[1] == 8


async def test_only_what_is_allowed_gets_new_libraries(fake: FakeProvider) -> None:
    allowed = "static, openai:good-*"
    async with running(openai_base_url=fake.url, allowed=allowed) as embedders:
        assert (await embedders.describe("static", None))[1] == 256
        assert (await embedders.describe("openai:good-1", None))[1] == 8
        for name in ("none", "openai:bad", "sentence-transformers:/etc"):
            with pytest.raises(InvalidLibrary, match=r"it allows static, openai:good-\*"):
                await embedders.describe(name, 8)


async def test_another_host_is_another_model(fake: FakeProvider) -> None:
    async with running(openai_base_url=fake.url) as embedders:
        with pytest.raises(EmbedderMismatch, match="regenerate"):
            embedders.bound(library("openai:m", "openai:m:8@api.openai.com", 8))


@pytest.mark.usefixtures("plugin")
async def test_a_plugin_is_found_started_and_bound() -> None:
    async with running() as embedders:
        assert {"letters", "missing", "wrong"} <= set(embedders.names)
        assert await embedders.describe("letters", None) == ("letters:1:512", 512)
        assert await embedders.describe("letters:64", 64) == ("letters:1:64", 64)
        with pytest.raises(InvalidLibrary, match="512 dimensions, not 3"):
            await embedders.describe("letters", 3)
        found = await embedders.bound(library("letters", "letters:1:512", 512)).embed(["a boat"])
        assert found.shape == (1, 512)


@pytest.mark.usefixtures("plugin")
async def test_a_broken_plugin_harms_only_who_asks_for_it() -> None:
    async with running() as embedders:
        for name, why in (("missing", "ModuleNotFoundError"), ("wrong", "gave a str")):
            with pytest.raises(EmbedderFailed, match=why):
                await embedders.describe(name, None)
        with pytest.raises(EmbedderFailed, match="invalid literal"):
            await embedders.describe("letters:many", None)
        assert (await embedders.get("static").embed(["a boat"])).shape == (1, 256)


@pytest.mark.usefixtures("plugin")
async def test_a_plugin_that_changed_is_noticed_once_it_has_started() -> None:
    async with running() as embedders:
        bound = embedders.bound(library("letters", "letters:0:512", 512))
        with pytest.raises(EmbedderMismatch, match="regenerate"):
            await bound.embed(["a boat"])
        for identity, dimension in (("letters:0:512", 512), ("letters:1:512", 3)):
            with pytest.raises(EmbedderMismatch, match="regenerate"):
                embedders.bound(library("letters", identity, dimension))


async def test_a_plugin_that_is_gone_is_a_mismatch() -> None:
    async with running() as embedders:
        with pytest.raises(EmbedderMismatch) as caught:
            embedders.bound(library("letters", "letters:1:512", 512))
        assert caught.value.fields["running"] is None
        assert "this server has no embedder 'letters'" in caught.value.detail
