"""From what a client sent to what the store takes: parsed, checked, chunked, hashed.

Used by single writes, batches and streams alike, always in a thread: this is the CPU work of an
ingest that is not embedding. It must decide from the input and the library alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater.embed import Embedder, chunk_text
from headwater.errors import (
    DimensionMismatch,
    HeadwaterError,
    InvalidDocument,
    InvalidJson,
    InvalidVector,
    TooManyItems,
    UnknownField,
)
from headwater.model import Draft, DraftChunk, Form, Library, Vectors

MAX_ID_CHARS = 256
MAX_TITLE_CHARS = 10_000
MAX_METADATA_DEPTH = 100
"""Deeper JSON could be taken here and then not be read where the stack is fuller."""
MAX_LENGTH = 1e18
"""Products and distances of vectors up to this length are finite in float32."""

_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search
_canonical = msgspec.json.Encoder(order="deterministic").encode


class ChunkInput(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A chunk as a client sends it: text, a vector, or both."""

    text: str | None = None
    vector: list[float] | None = None
    metadata: dict[str, Any] | None = None


class DocumentInput(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A document as a client sends it: exactly one of `text`, `texts` and `chunks`."""

    id: str | None = None
    title: str | None = None
    text: str | None = None
    texts: list[str] | None = None
    chunks: list[ChunkInput] | None = None
    metadata: dict[str, Any] | None = None
    author: str | None = None
    document_type: str | None = None
    source_url: str | None = None
    tags: list[str] | None = None


_decode = msgspec.json.Decoder(DocumentInput).decode


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A draft and the vectors its chunks came with: None where the text is to be embedded."""

    draft: Draft
    vectors: tuple[Vectors | None, ...]


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a document was not taken; `id` when it could be read."""

    id: str | None
    error: HeadwaterError


def decode(body: bytes) -> DocumentInput:
    """Parse one document. Raises `InvalidJson`, `UnknownField`, `InvalidDocument`."""
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        detail = str(error)
        if "unknown field" in detail:
            raise UnknownField(f"{detail}; a document's own fields go into `metadata`") from error
        raise InvalidDocument(f"not a document: {detail}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJson(f"not a JSON object: {error}") from error


class Preparer:
    """Makes drafts for one library. Cheap to make; safe to use from any one thread."""

    def __init__(
        self,
        library: Library,
        embedder: Embedder,
        *,
        max_chunks: int,
        new_id: Callable[[], str],
    ) -> None:
        self._library = library
        self._embeds = embedder.name != "none"
        self._max_chunks = max_chunks
        self._new_id = new_id

    def prepare(
        self, given: DocumentInput, *, must_be_new: bool = False, if_version: int | None = None
    ) -> Prepared:
        """Check and chunk one document.

        Raises `InvalidDocument`, `InvalidVector`, `DimensionMismatch`, `TooManyItems`.
        """
        id = self._new_id() if given.id is None else check_id(given.id)
        title = check_title(given.title)
        forms = [form for form in ("text", "texts", "chunks") if getattr(given, form) is not None]
        if len(forms) != 1:
            raise InvalidDocument(
                "give exactly one of `text`, `texts` and `chunks`; "
                + (f"this document has {' and '.join(forms)}" if forms else "none is there")
            )
        form: Form = forms[0]  # type: ignore[assignment]  # narrowed by the list above
        whole: str | None = None
        vectors: tuple[Vectors | None, ...]
        if given.text is not None:
            text = _check_text(given.text)
            chunks = chunk_text(text, self._library.chunk_size, self._library.chunk_overlap)
            if len(chunks) != 1 or chunks[0].text != text:
                whole = text
            digest = b"text\0" + text.encode()
            vectors = (None,) * len(chunks)
        elif given.texts is not None:
            chunks = [DraftChunk(_check_text(text)) for text in given.texts]
            digest = b"texts\0" + _canonical(given.texts)
            vectors = (None,) * len(chunks)
        else:
            sent = given.chunks or []
            vectors = tuple(self._vector(chunk) for chunk in sent)
            chunks = [self._chunk(chunk) for chunk in sent]
            digest = b"chunks\0" + _canonical(sent)
        if not chunks:
            raise InvalidDocument(f"`{form}` holds nothing to search; give it some text")
        if len(chunks) > self._max_chunks:
            raise TooManyItems(
                f"{len(chunks)} chunks in one document, the limit is {self._max_chunks}; "
                "split it, or raise `limits.chunks_per_document`"
            )
        if not self._embeds and any(vector is None for vector in vectors):
            raise InvalidVector(
                f"library {self._library.name!r} has no embedder; "
                "send `chunks` with a `vector` each"
            )
        draft = Draft(
            id=id,
            title=title,
            form=form,
            text=whole,
            metadata=metadata_of(given),
            body_hash=blake2b(digest, digest_size=16).digest(),
            chunks=tuple(chunks),
            must_be_new=must_be_new,
            if_version=if_version,
        )
        return Prepared(draft, vectors)

    def _chunk(self, chunk: ChunkInput) -> DraftChunk:
        if chunk.text is None and chunk.vector is None:
            raise InvalidDocument("a chunk needs a `text` or a `vector`")
        metadata = None if chunk.metadata is None else encode_metadata(chunk.metadata)
        return DraftChunk(
            None if chunk.text is None else _check_text(chunk.text), metadata=metadata
        )

    def _vector(self, chunk: ChunkInput) -> Vectors | None:
        return None if chunk.vector is None else check_vector(chunk.vector, self._library)


def check_vector(values: Sequence[float], library: Library) -> Vectors:
    """float32, shape (dimension,). Raises `DimensionMismatch`, `InvalidVector`."""
    if len(values) != library.dimension:
        raise DimensionMismatch(
            f"the vector has {len(values)} numbers, library {library.name!r} has dimension "
            f"{library.dimension}",
            expected=library.dimension,
            given=len(values),
        )
    with np.errstate(over="ignore", invalid="ignore"):
        vector = np.array(values, dtype=np.float32)
        squared = float(vector @ vector)
    if not squared <= MAX_LENGTH**2:
        raise InvalidVector(
            f"the vector holds a number that is not finite in float32, or is longer than "
            f"{MAX_LENGTH:g}; scale it down"
        )
    return vector


def check_id(id: str) -> str:
    """Raises `InvalidDocument` when it cannot be a document's id."""
    if not id or len(id) > MAX_ID_CHARS or "\0" in id:
        raise InvalidDocument(
            f"a document's id has 1 to {MAX_ID_CHARS} characters and no U+0000; "
            f"this one has {len(id)}"
        )
    return id


def check_title(title: str | None) -> str | None:
    if title is not None and (len(title) > MAX_TITLE_CHARS or "\0" in title):
        raise InvalidDocument(
            f"a title has at most {MAX_TITLE_CHARS} characters and no U+0000; "
            f"this one has {len(title)}"
        )
    return title


def metadata_of(given: DocumentInput) -> bytes:
    """The metadata as canonical JSON; the common fields win over equal keys in `metadata`."""
    common = {
        key: value
        for key in ("author", "document_type", "source_url", "tags")
        if (value := getattr(given, key)) is not None
    }
    if not common and not given.metadata:
        return b"{}"
    return encode_metadata({**(given.metadata or {}), **common})


def encode_metadata(
    metadata: dict[str, Any], wrong: type[HeadwaterError] = InvalidDocument
) -> bytes:
    """Metadata as canonical JSON. Raises `wrong` when it cannot be stored and read again."""
    try:
        encoded = _canonical(metadata)
        brackets = encoded.count(b"[") + encoded.count(b"{")
        deep = brackets > MAX_METADATA_DEPTH and _depth(metadata) > MAX_METADATA_DEPTH
    except RecursionError:
        deep = True
    if deep:
        raise wrong(f"`metadata` is nested deeper than {MAX_METADATA_DEPTH} levels; flatten it")
    if b"\\u0000" in encoded and _nul(encoded):
        raise wrong("`metadata` holds U+0000, which cannot be stored; remove it")
    return encoded


def _depth(value: Any) -> int:
    """Objects and arrays inside one another, the outermost included."""
    depth = 0
    level: list[Any] = [value]
    while level:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    return depth


def matrix(prepared: Sequence[Prepared], embedded: Vectors, dimension: int) -> Vectors:
    """All chunks' vectors in order: those sent, and `embedded` for the others.

    float32, (chunks, dimension).
    """
    if len(embedded) == sum(len(item.vectors) for item in prepared):
        return embedded
    return filled([vector for item in prepared for vector in item.vectors], embedded, dimension)


def filled(vectors: Sequence[Vectors | None], embedded: Vectors, dimension: int) -> Vectors:
    """`vectors`, and the next of `embedded` for each None: float32, (len(vectors), dimension)."""
    result = np.empty((len(vectors), dimension), dtype=np.float32)
    taken = 0
    for place, vector in enumerate(vectors):
        if vector is None:
            result[place] = embedded[taken]
            taken += 1
        else:
            result[place] = vector
    return result


def without_vector(prepared: Sequence[Prepared]) -> NDArray[np.bool_]:
    """Which of all chunks came without a vector, in order: bool, (chunks,)."""
    return np.array(
        [vector is None for item in prepared for vector in item.vectors], dtype=np.bool_
    )


def texts_to_embed(prepared: Sequence[Prepared]) -> list[str]:
    """The texts of all chunks that came without a vector, in order."""
    return [
        chunk.text or ""
        for item in prepared
        for chunk, vector in zip(item.draft.chunks, item.vectors, strict=True)
        if vector is None
    ]


def prepare_all(
    preparer: Preparer,
    bodies: Sequence[bytes | HeadwaterError],
    name: Callable[[int], str] | None = None,
) -> list[Prepared | Refusal]:
    """Parse and prepare each body; a refusal takes the place of its document only.

    `name` gives the id of a document without one, by its place among the bodies.
    """
    result: list[Prepared | Refusal] = []
    for place, body in enumerate(bodies):
        if isinstance(body, HeadwaterError):
            result.append(Refusal(None, body))
            continue
        id: str | None = None
        try:
            given = decode(body)
            if given.id is None and name is not None:
                given.id = name(place)
            id = given.id
            result.append(preparer.prepare(given))
        except HeadwaterError as error:
            # Its traceback, and its cause's, hold this frame, which holds the list that holds it:
            # a cycle through a struct that the collector does not look into. It is told, not
            # raised again, and a stream of bad lines must not stay in memory.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            result.append(Refusal(id, error))
    return result


def _check_text(text: str) -> str:
    if "\0" in text:
        raise InvalidDocument("the text holds U+0000, which cannot be stored; remove it")
    return text
