"""Writes that would rather be refused than have documents pending: which ones are, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from service.obedient import NEVER, down, opened, refusing
from store.backend import draft, vector

from headwater.errors import EmbedderFailed, HeadwaterError, InvalidDocument
from headwater.model import Library
from headwater.service.drafts import Prepared, Refusal
from headwater.service.embedding import REFUSED_IN_A_ROW, DocumentEmbedding
from headwater.service.refusing import embedded_or_refused

pytestmark = pytest.mark.anyio


def document(id: str, *texts: str) -> Prepared:
    """Chunks with these texts, which are the id where there are none; none has a vector."""
    texts = texts or (id,)
    return Prepared(draft(id, *texts), (None,) * len(texts))


async def refused(
    embedding: DocumentEmbedding, library: Library, *items: Prepared | Refusal
) -> dict[str | None, HeadwaterError]:
    """What was refused and why; everything else has the vectors of its texts, in its place."""
    results = await embedded_or_refused(embedding, library, items)
    assert len(results) == len(items)
    errors: dict[str | None, HeadwaterError] = {}
    for given, result in zip(items, results, strict=True):
        if isinstance(result, Refusal):
            errors[result.id] = result.error
            continue
        assert isinstance(given, Prepared)
        assert result.draft is given.draft
        for chunk, found in zip(result.draft.chunks, result.vectors, strict=True):
            assert found is not None
            assert found.tolist() == vector(chunk.text or "").tolist()
    return errors


async def test_all_is_embedded_in_one_call(tmp_path: Path) -> None:
    async with opened(tmp_path, run=False) as house:
        library = await house.library()
        own = vector("sent").copy()
        mixed = Prepared(draft("mixed", "a", "sent", "b"), (None, own, None))
        whole = Prepared(draft("whole", "sent"), (own,))
        bad = Refusal("bad", InvalidDocument("it is empty"))
        items: list[Prepared | Refusal] = [document("x", "1", "2"), bad, mixed, whole]
        assert (await refused(house.embedding, library, *items)).keys() == {"bad"}
        assert house.bound(library).asked == [["1", "2", "a", "b"]]


async def test_a_failing_embedder_refuses_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER, run=False) as house:
        library = await house.library()
        house.bound(library).rule = down
        whole = Prepared(draft("whole", "sent"), (vector("sent").copy(),))
        for _ in range(2):  # the second time it is left alone
            errors = await refused(
                house.embedding, library, document("a"), whole, document("b", "1", "2")
            )
            assert errors.keys() == {"a", "b"}
            assert {error.code for error in errors.values()} == {"embedder_unavailable"}
            assert errors["a"] is not errors["b"]
        assert len(house.bound(library).asked) == 1


async def test_a_text_that_gets_wrong_answers_costs_its_own_document_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, NEVER, run=False) as house:
        library = await house.library()

        def wrong(texts: list[str]) -> BaseException | None:
            if "odd" not in texts:
                return None
            return EmbedderFailed("not finite", retryable=True, text_index=texts.index("odd"))

        house.bound(library).rule = wrong
        items = [document("one", "fine", "odd"), *(document(f"d{n}") for n in range(10))]
        errors = await refused(house.embedding, library, *items)
        assert errors.keys() == {"one"}
        assert errors["one"].retryable


@pytest.mark.parametrize("told", [False, True])
async def test_a_refused_text_costs_its_own_document_alone(tmp_path: Path, told: bool) -> None:
    async with opened(tmp_path, run=False) as house:
        library = await house.library()
        embedder = house.bound(library)

        def pointing(texts: list[str]) -> BaseException | None:
            bad = [index for index, text in enumerate(texts) if text.startswith("bad")]
            return EmbedderFailed("a text is not valid", text_index=bad[0]) if bad else None

        embedder.rule = pointing if told else refusing("bad 1", "bad 2")
        items = [document(f"d{n}", f"a {n}", f"b {n}") for n in range(40)]
        items[3] = document("one", "fine", "bad 1")
        items[30] = document("two", "bad 2")
        errors = await refused(house.embedding, library, *items)
        assert errors.keys() == {"one", "two"}
        assert all("text_index" not in error.fields for error in errors.values())
        # Told which text it is, the rest goes in pieces around it; else it is found by halving.
        assert len(embedder.asked) <= (5 if told else 2 * 2 * 6 + 1)


async def test_an_embedder_that_refuses_everything_is_not_asked_for_each(tmp_path: Path) -> None:
    async with opened(tmp_path, run=False) as house:
        library = await house.library()
        embedder = house.bound(library)
        embedder.rule = lambda texts: EmbedderFailed("no such key")
        items = [document(f"d{n}") for n in range(64)]
        errors = await refused(house.embedding, library, *items)
        assert errors.keys() == {f"d{n}" for n in range(64)}
        singles = [texts for texts in embedder.asked if len(texts) == 1]
        assert len(singles) == REFUSED_IN_A_ROW
        assert len(embedder.asked) < 16
