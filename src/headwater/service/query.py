"""A search as a client sends it, and what it asks for once all that is left out is decided.

`search.py` and `api/search.py` use it. Everything that can be wrong with a search, without looking
at any data, is found here.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from headwater.errors import InvalidQuery
from headwater.filters import Filter, parse
from headwater.model import Library
from headwater.service.paging import PageToken
from headwater.settings import LimitSettings

Mode = Literal["hybrid", "vector", "keyword"]
INCLUDES = frozenset({"vector", "distance"})
LARGEST_GROUP = 100
EF_RANGE = (16, 10_000)
LARGEST_EXAMPLES = 100
MOST_CANDIDATES = 1_000


class Weights(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much each leg of a hybrid search counts."""

    vector: float = 1.0
    keyword: float = 1.0


class Mmr(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Diversity: 1 keeps the order by relevance, 0 looks only at how different hits are."""

    relevance: float = 0.5
    candidates: int | None = None


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """One of `query`, `vector` and `like` says what is searched for."""

    query: str | None = None
    vector: list[float] | None = None
    like: list[str] = []
    unlike: list[str] = []
    mode: Mode | None = None
    k: int = 10
    filter: dict[str, Any] | None = None
    score_threshold: float | None = None
    weights: Weights | None = None
    mmr: Mmr | float | None = None
    group_by: Literal["document"] | None = None
    group_size: int = 3
    highlight: bool = False
    include: list[str] = []
    after: str | None = None
    min_cursor: str | None = None
    exact: bool = False
    ef: int | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """A checked query: the mode is decided, the filter and the page token are read."""

    query: Query
    mode: Mode
    filter: Filter | None
    mmr: Mmr | None
    page: PageToken | None
    fingerprint: str
    """Of everything that shapes the order of the hits; empty when nobody needs it."""

    @property
    def k(self) -> int:
        return self.query.k

    def asking(self, k: int) -> Wish:
        """The same for another number of chunks."""
        return replace(self, query=msgspec.structs.replace(self.query, k=k))


def check(query: Query, library: Library, limits: LimitSettings) -> Wish:
    """Raises `InvalidQuery`, `InvalidFilter`, `InvalidCursor`."""
    if (query.query is not None) + (query.vector is not None) + bool(query.like) != 1:
        raise InvalidQuery("give exactly one of `query`, `vector` and `like`")
    if not 1 <= query.k <= limits.k:
        raise _wrong("k", f"k is {query.k}; it may be 1 to {limits.k}")
    if query.query is not None and len(query.query) > limits.query_chars:
        raise _wrong(
            "query",
            f"the query has {len(query.query)} characters, the limit is {limits.query_chars}",
        )
    if unknown := set(query.include) - INCLUDES:
        raise _wrong(
            "include",
            f"`include` knows {', '.join(sorted(INCLUDES))}, not {', '.join(sorted(unknown))}",
        )
    if query.highlight and query.query is None:
        raise _wrong("highlight", "only words can be highlighted; give a `query`")
    mode = _mode(query, library)
    _check_examples(query)
    if not 1 <= query.group_size <= LARGEST_GROUP:
        raise _wrong(
            "group_size", f"group_size is {query.group_size}; it may be 1 to {LARGEST_GROUP}"
        )
    if query.weights is not None:
        _check_weights(query.weights, mode)
    mmr = _mmr(query)
    if mmr is not None and query.group_by is not None:
        raise _wrong("mmr", "`mmr` and `group_by` do not go together; leave one of them out")
    if query.ef is not None:
        _check_ef(query.ef, mode)
    if query.score_threshold is not None and not math.isfinite(query.score_threshold):
        raise _wrong(
            "score_threshold", f"score_threshold is {query.score_threshold}; give a number"
        )
    if query.after is None and not query.group_by and mmr is None and query.filter is None:
        return Wish(query, mode, None, None, None, "")
    filter = None if query.filter is None else parse(query.filter)
    fingerprint = _fingerprint(query, mode, library)
    page = None
    if query.after is not None:
        if mmr is not None or query.group_by is not None:
            raise _wrong("after", "pages go with neither `mmr` nor `group_by`; ask for a larger k")
        words = _fingerprint(query, "keyword", library)
        if query.mode is None and mode == "hybrid" and PageToken.belongs(query.after, words):
            mode, fingerprint = "keyword", words
        page = PageToken.parse(query.after, fingerprint)
    return Wish(query, mode, filter, mmr, page, fingerprint)


def fingerprint(wish: Wish, library: Library) -> str:
    """For the token of the next page."""
    return wish.fingerprint or _fingerprint(wish.query, wish.mode, library)


def without_meaning(wish: Wish) -> Wish:
    """The search by words alone that a search whose mode was left open has become."""
    return replace(wish, mode="keyword", fingerprint="")


def _mode(query: Query, library: Library) -> Mode:
    """Text is searched by words and meaning, unless something is asked that only one can give."""
    if query.mode is None:
        if query.query is not None and library.embedder == "none":
            return "keyword"
        if query.query is None or query.score_threshold is not None or query.mmr is not None:
            return "vector"
        return "hybrid"
    if query.mode != "vector" and query.query is None:
        raise _wrong("mode", f"mode {query.mode!r} needs a `query`, in words")
    if query.mode == "hybrid" and query.score_threshold is not None:
        raise _wrong(
            "score_threshold",
            "a hybrid score is made of ranks and has no scale; use mode `vector` or `keyword`",
        )
    return query.mode


def _check_examples(query: Query) -> None:
    if query.unlike and not query.like:
        raise _wrong("unlike", "`unlike` goes with `like`; name at least one document there")
    if len(query.like) + len(query.unlike) > LARGEST_EXAMPLES:
        raise _wrong("like", f"`like` and `unlike` name at most {LARGEST_EXAMPLES} documents")


def _check_ef(ef: int, mode: Mode) -> None:
    least, most = EF_RANGE
    if not least <= ef <= most:
        raise _wrong("ef", f"ef is {ef}; it may be {least} to {most}")
    if mode == "keyword":
        raise _wrong("ef", "words are not looked for in a graph; leave `ef` out")


def _check_weights(weights: Weights, mode: Mode) -> None:
    if mode != "hybrid":
        raise _wrong("weights", f"weights go with mode `hybrid`, not with `{mode}`")
    # Comparisons that are false for NaN, too.
    fair = 0 <= weights.vector <= 1000 and 0 <= weights.keyword <= 1000
    if not fair or not weights.vector + weights.keyword:
        raise _wrong("weights", "weights are 0 to 1000 and not both 0")


def _mmr(query: Query) -> Mmr | None:
    if query.mmr is None:
        return None
    mmr = query.mmr if isinstance(query.mmr, Mmr) else Mmr(query.mmr)
    if not 0 <= mmr.relevance <= 1:
        raise _wrong("mmr", f"mmr's relevance is {mmr.relevance}; it may be 0 to 1")
    if query.k > MOST_CANDIDATES:
        raise _wrong("k", f"with mmr, k is at most {MOST_CANDIDATES}")
    if mmr.candidates is not None and not query.k <= mmr.candidates <= MOST_CANDIDATES:
        raise _wrong("mmr", f"mmr's candidates may be k to {MOST_CANDIDATES}")
    return mmr


def _fingerprint(query: Query, mode: Mode, library: Library) -> str:
    shaping = (
        library.id,
        0 if mode == "keyword" else library.generation,
        query.query,
        query.like,
        query.unlike,
        mode,
        query.filter,
        query.score_threshold,
        query.weights,
        query.exact,
        query.ef,
    )
    made = hashlib.blake2b(msgspec.json.encode(shaping), digest_size=6)
    if query.vector is not None:
        made.update(array("d", query.vector).tobytes())
    return made.hexdigest()


def _wrong(parameter: str, detail: str) -> InvalidQuery:
    return InvalidQuery(detail, parameter=parameter)
