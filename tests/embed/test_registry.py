"""Which embedder a library gets, and when it is refused one."""

from __future__ import annotations

import anyio
import pytest

from headwater.embed import Embedders, NoneEmbedder
from headwater.errors import EmbedderMismatch, InvalidDocument, InvalidLibrary, InvalidQuery
from headwater.model import Library

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
