"""From what a client sent to a draft: what is refused and why, and what makes two equal."""

from __future__ import annotations

import gc
import json
import math
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.embed import Embedder
from headwater.embed.none import NoneEmbedder
from headwater.embed.static import StaticEmbedder
from headwater.errors import (
    DimensionMismatch,
    HeadwaterError,
    InvalidDocument,
    InvalidJson,
    InvalidVector,
    LineTooLong,
    TooManyItems,
    UnknownField,
)
from headwater.model import Library
from headwater.service import drafts
from headwater.service.drafts import (
    MAX_METADATA_DEPTH,
    Prepared,
    Preparer,
    Refusal,
    matrix,
    prepare_all,
    texts_to_embed,
)

LIBRARY = Library(
    number=1,
    id="0192f0c1-0000-7000-8000-000000000000",
    name="notes",
    description=None,
    embedder="static",
    embedder_identity="static:test",
    dimension=3,
    metric="cosine",
    chunk_size=100,
    chunk_overlap=10,
    metadata={},
    version=1,
    documents=0,
    chunks=0,
    created_us=0,
    updated_us=0,
    position=0,
)
STATIC = StaticEmbedder()


def preparer(embedder: Embedder = STATIC) -> Preparer:
    return Preparer(LIBRARY, embedder, max_chunks=4, new_id=lambda: "made")


def prepare(document: Any, embedder: Embedder = STATIC) -> Prepared:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return preparer(embedder).prepare(drafts.decode(body))


def nested(depth: int) -> bytes:
    """Metadata of just that depth."""
    inner = depth - 1
    return b'{"text":"a","metadata":{"a":' + b"[" * inner + b"]" * inner + b"}}"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", InvalidJson),
        (b"{", InvalidJson),
        (b"not json", InvalidJson),
        (b'{"text":"a"} {"text":"b"}', InvalidJson),
        (b'{"text":"a",}', InvalidJson),
        (b'{"text":"\xff"}', InvalidJson),
        (b'{"text":"\xed\xa0\x80"}', InvalidJson),
        (b'{"text":"\\ud800"}', InvalidJson),
        (b'{"text":"\\udc00 after"}', InvalidJson),
        (b'{"text":"a","metadata":{"x":NaN}}', InvalidJson),
        (b'{"text":"a","metadata":{"x":Infinity}}', InvalidJson),
        (b'{"text":"a","metadata":{"x":-Infinity}}', InvalidJson),
        (b'{"chunks":[{"vector":[NaN,0,0]}]}', InvalidJson),
        (b'{"text":"a","metadata":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, InvalidJson),
        (b"[]", InvalidDocument),
        (b"null", InvalidDocument),
        (b'"text"', InvalidDocument),
        (b"17", InvalidDocument),
        (b"{}", InvalidDocument),
        (b'{"text":"a","metadata":{"x":1e999}}', InvalidDocument),
        (b'{"text":"a","metadata":{"x":%s}}' % (b"9" * 5_000), InvalidDocument),
        (b'{"text":1}', InvalidDocument),
        (b'{"text":"a","title":1}', InvalidDocument),
        (b'{"text":"a","id":1}', InvalidDocument),
        (b'{"text":"a","metadata":[]}', InvalidDocument),
        (b'{"text":"a","tags":"sea"}', InvalidDocument),
        (b'{"text":"a","tags":[1]}', InvalidDocument),
        (b'{"text":"a","author":["x"]}', InvalidDocument),
        (b'{"texts":"a"}', InvalidDocument),
        (b'{"texts":[null]}', InvalidDocument),
        (b'{"chunks":{}}', InvalidDocument),
        (b'{"chunks":[{}]}', InvalidDocument),
        (b'{"chunks":[{"vector":["1",0,0]}]}', InvalidDocument),
        (b'{"chunks":[{"vector":[true,0,0]}]}', InvalidDocument),
        (b'{"text":"a","texts":["b"]}', InvalidDocument),
        (b'{"text":"a","chunks":[{"text":"b"}]}', InvalidDocument),
        (b'{"text":""}', InvalidDocument),
        (b'{"text":" \\n\\t"}', InvalidDocument),
        (b'{"texts":[]}', InvalidDocument),
        (b'{"chunks":[]}', InvalidDocument),
        (b'{"text":"a\\u0000b"}', InvalidDocument),
        (b'{"texts":["ok","\\u0000"]}', InvalidDocument),
        (b'{"chunks":[{"text":"\\u0000"}]}', InvalidDocument),
        (b'{"text":"a","title":"\\u0000"}', InvalidDocument),
        (b'{"text":"a","id":"\\u0000"}', InvalidDocument),
        (b'{"text":"a","metadata":{"x":"\\u0000"}}', InvalidDocument),
        (b'{"text":"a","metadata":{"\\u0000":1}}', InvalidDocument),
        (b'{"text":"a","metadata":{"x":"\\\\\\u0000"}}', InvalidDocument),
        (b'{"text":"a","tags":["\\u0000"]}', InvalidDocument),
        (b'{"chunks":[{"text":"a","metadata":{"x":"\\u0000"}}]}', InvalidDocument),
        (b'{"text":"a","id":""}', InvalidDocument),
        (b'{"text":"a","id":"%s"}' % (b"x" * 257), InvalidDocument),
        (b'{"text":"a","title":"%s"}' % (b"x" * 10_001), InvalidDocument),
        (nested(MAX_METADATA_DEPTH + 1), InvalidDocument),
        (nested(900), InvalidDocument),
        (b'{"chunks":[{"text":"a","metadata":' + b'{"a":' * 101 + b"1" + b"}" * 103, InvalidJson),
        (
            b'{"chunks":[{"text":"a","metadata":' + b'{"a":' * 101 + b"1" + b"}" * 101 + b"}]}",
            InvalidDocument,
        ),
        (b'{"text":"a","colour":"red"}', UnknownField),
        (b'{"text":"a","vector":[1,2,3]}', UnknownField),
        (b'{"chunks":[{"text":"a","id":"x"}]}', UnknownField),
        (b'{"chunks":[{"vector":[1,2]}]}', DimensionMismatch),
        (b'{"chunks":[{"vector":[1,2,3,4]}]}', DimensionMismatch),
        (b'{"chunks":[{"vector":[]}]}', DimensionMismatch),
        (b'{"chunks":[{"vector":[1e39,0,0]}]}', InvalidVector),
        (b'{"chunks":[{"vector":[-1e39,0,0]}]}', InvalidVector),
        (b'{"chunks":[{"vector":[1e38,1,1]}]}', InvalidVector),
        (b'{"chunks":[{"vector":[0,1.1e18,0]}]}', InvalidVector),
        (b'{"chunks":[{"vector":[1e999,0,0]}]}', InvalidDocument),
        (b'{"texts":["1","2","3","4","5"]}', TooManyItems),
    ],
)
def test_a_wrong_document_is_refused_with_its_code(
    body: bytes, error: type[HeadwaterError]
) -> None:
    with pytest.raises(HeadwaterError) as caught:
        prepare(body)
    assert type(caught.value) is error
    assert caught.value.detail


@pytest.mark.parametrize(
    "body",
    [
        {"text": "a", "id": "x" * 256},
        {"text": "a", "id": "a/b c%d?ü\n😀"},
        {"text": "a", "title": "x" * 10_000},
        {"text": "a", "title": ""},
        {"text": "a", "metadata": {}},
        {"text": "a", "metadata": {"path": "C:\\u0000"}},
        {"text": "a", "metadata": {"big": 10**30, "small": 1e-300, "no": None}},
        {"chunks": [{"vector": [1, 2.5, -0.0]}]},
        {"chunks": [{"vector": [9e17, 0, 1e-45]}]},
        {"chunks": [{"text": "", "vector": [1, 2, 3]}]},
    ],
)
def test_the_odd_but_right_is_taken(body: dict[str, Any]) -> None:
    assert prepare(body).draft.chunks


def test_metadata_may_be_nested_up_to_the_limit() -> None:
    assert prepare(nested(MAX_METADATA_DEPTH)).draft.metadata.count(b"[") == MAX_METADATA_DEPTH - 1
    wide = {"text": "a", "metadata": {"rows": [[n] for n in range(1_000)]}}
    assert prepare(wide).draft.metadata


def test_an_id_is_made_when_none_is_given() -> None:
    assert prepare({"text": "a"}).draft.id == "made"
    assert prepare({"text": "a", "id": None}).draft.id == "made"
    assert prepare({"text": "a", "id": "own"}).draft.id == "own"


def test_common_fields_are_kept_as_metadata_and_win() -> None:
    given = {
        "text": "a",
        "author": "Ada",
        "document_type": "note",
        "source_url": "https://example.org/",
        "tags": ["x", "y"],
        "metadata": {"author": "somebody", "year": 1843},
    }
    assert json.loads(prepare(given).draft.metadata) == {
        "author": "Ada",
        "document_type": "note",
        "source_url": "https://example.org/",
        "tags": ["x", "y"],
        "year": 1843,
    }


def test_metadata_is_canonical() -> None:
    one = prepare(b'{"text":"a","metadata":{"b":{"d":1,"c":2},"a":3}}').draft
    two = prepare(b'{"text":"a","metadata":{ "a":3, "b":{"c":2,"d":1}}}').draft
    assert one.metadata == two.metadata == b'{"a":3,"b":{"c":2,"d":1}}'


def test_the_body_hash_speaks_of_the_body_alone() -> None:
    plain = prepare({"text": "a"}).draft.body_hash
    assert prepare({"text": "a", "title": "t", "metadata": {"x": 1}}).draft.body_hash == plain
    others = [
        {"text": "b"},
        {"texts": ["a"]},
        {"chunks": [{"text": "a"}]},
        {"chunks": [{"text": "a", "metadata": {"x": 1}}]},
        {"chunks": [{"text": "a", "vector": [1, 2, 3]}]},
        {"chunks": [{"text": "a", "vector": [1, 2, 4]}]},
        {"texts": ["a", "b"]},
        {"texts": ["ab"]},
    ]
    hashes = {prepare(other).draft.body_hash for other in others}
    assert len(hashes | {plain}) == len(others) + 1


def test_equal_chunk_metadata_in_another_order_has_the_same_hash() -> None:
    one = prepare(b'{"chunks":[{"text":"a","metadata":{"x":1,"y":2}}]}').draft
    two = prepare(b'{"chunks":[{"metadata":{"y":2,"x":1},"text":"a"}]}').draft
    assert one.body_hash == two.body_hash


def test_text_is_chunked_with_offsets_into_it() -> None:
    text = "One sentence of it. " * 14
    draft = prepare({"text": text}).draft
    assert len(draft.chunks) > 1
    assert draft.text == text
    for chunk in draft.chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert len(chunk.text or "") <= LIBRARY.chunk_size


def test_a_text_of_one_chunk_is_not_stored_twice() -> None:
    assert prepare({"text": "short"}).draft.text is None
    # What was stripped from the chunk must not be lost.
    assert prepare({"text": "  short "}).draft.text == "  short "


def test_texts_are_each_one_chunk_however_long() -> None:
    draft = prepare({"texts": ["a" * 1_000, "b"]}).draft
    assert [chunk.text for chunk in draft.chunks] == ["a" * 1_000, "b"]
    assert draft.chunks[0].start is None


def test_a_vector_that_came_is_used_and_the_rest_embedded() -> None:
    prepared = prepare({"chunks": [{"text": "a"}, {"text": "b", "vector": [1, 2, 3]}]})
    other = prepare({"chunks": [{"vector": [4, 5, 6]}, {"text": "c"}]})
    assert texts_to_embed([prepared, other]) == ["a", "c"]
    embedded = np.array([[7, 7, 7], [8, 8, 8]], np.float32)
    whole = matrix([prepared, other], embedded, 3)
    assert whole.tolist() == [[7, 7, 7], [1, 2, 3], [4, 5, 6], [8, 8, 8]]
    assert whole.dtype == np.float32


@pytest.mark.parametrize(
    "body",
    [
        {"text": "a"},
        {"texts": ["a"]},
        {"chunks": [{"text": "a"}]},
        {"chunks": [{"vector": [1, 2, 3]}, {"text": "a"}]},
    ],
)
def test_without_an_embedder_every_chunk_needs_a_vector(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidVector):
        prepare(body, NoneEmbedder(3))
    assert prepare({"chunks": [{"text": "a", "vector": [1, 2, 3]}]}, NoneEmbedder(3))


def test_one_refusal_takes_only_its_own_place() -> None:
    long = LineTooLong("too long")
    results = prepare_all(
        preparer(),
        [b'{"id":"a","text":"x"}', b"{", long, b'{"id":"b","text":""}', b'{"id":"c","text":"y"}'],
    )
    assert [isinstance(result, Prepared) for result in results] == [True, False, False, False, True]
    refused = [result for result in results if isinstance(result, Refusal)]
    assert [refusal.id for refusal in refused] == [None, None, "b"]
    assert [refusal.error.code for refusal in refused] == [
        "invalid_json",
        "line_too_long",
        "invalid_document",
    ]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc\\u0"), plain, max_size=5))
def test_any_metadata_is_kept_as_it_is(metadata: dict[str, Any]) -> None:
    kept = json.loads(prepare({"text": "a", "metadata": metadata}).draft.metadata)
    assert same(kept, metadata)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: numbers by value."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=0)
    return type(a) is type(b) and bool(a == b)


def test_refusals_are_freed_with_their_list_and_do_not_wait_for_the_collector() -> None:
    gc.disable()
    try:
        results = prepare_all(preparer(), [b"{", b'{"id":"b","text":""}', b'{"nothing":1}'])
        errors = [weakref.ref(result.error) for result in results if isinstance(result, Refusal)]
        assert len(errors) == 3
        del results
        assert [error() for error in errors] == [None] * 3
    finally:
        gc.enable()
