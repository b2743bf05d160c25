"""Embed all or refuse: for writes that would rather hear of a failure than have documents pending.

Used before a write is put together. What an embedder does not take now is refused with the
embedder's own error, document by document: one that it will never take must not harm those beside
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import chain

from headwater.errors import HeadwaterError
from headwater.model import Library, Vectors
from headwater.service.drafts import Prepared, Refusal, filled, texts_to_embed
from headwater.service.embedding import (
    REFUSED_IN_A_ROW,
    DocumentEmbedding,
    Failure,
    is_refusal,
)

Places = list[int]


async def embedded_or_refused(
    embedding: DocumentEmbedding, library: Library, prepared: Sequence[Prepared | Refusal]
) -> list[Prepared | Refusal]:
    """The same in order: with all vectors, or refused. Raises `EmbedderMismatch`, `ShuttingDown`.

    A call that fails as a whole refuses all its documents. One that is refused for a text is cut
    at that document, or halved until it is known.
    """
    results = list(prepared)
    taken = {
        place: item
        for place, item in enumerate(prepared)
        if isinstance(item, Prepared) and any(vector is None for vector in item.vectors)
    }
    parts: list[Places] = [list(taken)] if taken else []
    in_a_row = 0

    def refuse(places: Sequence[int], error: HeadwaterError) -> None:
        for place in places:
            results[place] = Refusal(taken[place].draft.id, _told(error))

    while parts:
        part = parts.pop()
        items = [taken[place] for place in part]
        outcome = await embedding.vectors(library, texts_to_embed(items))
        if not isinstance(outcome, Failure):
            in_a_row = 0
            for place, item in zip(part, _with_vectors(items, outcome, library), strict=True):
                results[place] = item
            continue
        error = outcome.error
        if not is_refusal(error):
            refuse([*part, *chain.from_iterable(parts)], error)
            break
        culprit = _culprit(items, error)
        if culprit is None:
            half = len(part) // 2
            parts += (part[half:], part[:half])
            continue
        refuse([part[culprit]], error)
        parts += filter(None, (part[culprit + 1 :], part[:culprit]))
        in_a_row += 1
        if in_a_row == REFUSED_IN_A_ROW:
            refuse(list(chain.from_iterable(parts)), error)
            break
    return results


def _with_vectors(items: Sequence[Prepared], embedded: Vectors, library: Library) -> list[Prepared]:
    whole: list[Prepared] = []
    at = 0
    for item in items:
        end = at + sum(vector is None for vector in item.vectors)
        vectors = filled(item.vectors, embedded[at:end], library.dimension)
        whole.append(Prepared(item.draft, tuple(vectors)))
        at = end
    return whole


def _culprit(items: Sequence[Prepared], error: HeadwaterError) -> int | None:
    """Which of `items` holds the text that is refused; None when that is not known."""
    if len(items) == 1:
        return 0
    index = error.fields.get("text_index")
    if not isinstance(index, int):
        return None
    for number, item in enumerate(items):
        index -= sum(vector is None for vector in item.vectors)
        if index < 0:
            return number
    return None


def _told(error: HeadwaterError) -> HeadwaterError:
    """Its own for each document: a traceback must not grow in several requests."""
    told = copy(error)
    told.__traceback__ = told.__cause__ = told.__context__ = None
    told.fields = {name: value for name, value in error.fields.items() if name != "text_index"}
    return told
