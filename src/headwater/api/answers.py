"""What a search has found, as JSON: one shape for requests, streams and sockets."""

from __future__ import annotations

from typing import Any

import msgspec

from headwater.errors import HeadwaterError
from headwater.service.hits import Hit
from headwater.service.query import Query
from headwater.service.render import hit_json
from headwater.service.search import Answer, Group

LARGE = 200
"""Hits; an answer with more is put together in a thread: 10,000 with vectors take a second."""

encode = msgspec.json.Encoder().encode


def hits_in(answer: Answer | HeadwaterError) -> int:
    if isinstance(answer, HeadwaterError):
        return 0
    return len(answer.hits) + sum(len(group.hits) for group in answer.groups or ())


def results(answer: Answer, query: Query) -> list[msgspec.Raw]:
    """Its hits or groups, best first, each encoded."""
    if answer.groups is None:
        return [encoded(hit, query) for hit in answer.hits]
    return [msgspec.Raw(encode(_group(group, query))) for group in answer.groups]


def rest(answer: Answer, cursor: str, took_ms: float) -> dict[str, Any]:
    """All that an answer says besides its results."""
    shown: dict[str, Any] = {}
    if answer.next is not None:
        shown["next"] = answer.next
    if answer.degraded is not None:
        shown["degraded"] = answer.degraded
    shown["cursor"] = cursor
    shown["took_ms"] = took_ms
    if answer.explanation is not None:
        shown["explanation"] = answer.explanation
    return shown


def encoded(hit: Hit, query: Query) -> msgspec.Raw:
    """Each by itself: encoding a large answer at once would hold up every other thread."""
    return msgspec.Raw(encode(hit_of(hit, query)))


def hit_of(hit: Hit, query: Query) -> dict[str, Any]:
    shown = hit_json(hit.passage, hit.rank, hit.score, query.include)
    if hit.legs is not None:
        shown["legs"] = {
            name: {"rank": rank, "score": score} for name, (rank, score) in hit.legs.items()
        }
    if hit.highlights is not None:
        marks, snippet = hit.highlights
        shown["highlights"] = [{"start": mark.start, "end": mark.end} for mark in marks]
        shown["snippet"] = {"start": snippet.start, "end": snippet.end}
    if "distance" in query.include:
        shown["distance"] = hit.distance
    return shown


def _group(group: Group, query: Query) -> dict[str, Any]:
    """A document by its best chunk, whose score is the document's, and its chunks."""
    passage = group.hits[0].passage
    return {
        "rank": group.rank,
        "document_id": passage.document_id,
        "title": passage.title,
        "score": group.hits[0].score,
        "metadata": msgspec.Raw(passage.metadata),
        "hits": [encoded(hit, query) for hit in group.hits],
    }
