"""Request bodies: bounded, decompressed, decoded.

A body is never held beyond its limit, and a compressed one never expands beyond what is asked for
at a time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol, TypeVar

import msgspec
import zstandard
from fastapi import Request

from headwater.api.shape import known_at
from headwater.errors import (
    BodyTooLarge,
    HeadwaterError,
    InvalidFilter,
    InvalidInput,
    InvalidJson,
    UnknownField,
    UnsupportedEncoding,
)

T = TypeVar("T")

PIECE_BYTES = 256 << 10

_AT_FILTER = re.compile(r" at `\$\.(query\.)?filter(\[\.\.\.\])*`$")
"""Where msgspec says that something is of another type than it should be."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body, decompressed. Raises `BodyTooLarge` and what `decoded` raises."""
    encoding = request.headers.get("content-encoding", "")
    pieces: list[bytes] = []
    size = 0
    source: AsyncIterator[bytes] = request.stream()
    if encoding:
        source = decoded(source, encoding)
    async for piece in source:
        size += len(piece)
        if size > limit_bytes:
            raise BodyTooLarge(
                f"the body is larger than {limit_bytes} bytes; send less at once, or use the "
                "documents stream, which has no limit",
                limit_bytes=limit_bytes,
            )
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode(body: bytes, type: type[T], wrong: type[HeadwaterError] = InvalidInput) -> T:
    """`body` as JSON of that shape.

    Raises `InvalidJson`, `UnknownField`, `InvalidFilter` for a `filter` that is none at all, or
    `wrong`.
    """
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        check_filter(error)
        kind = UnknownField if "unknown field" in str(error) else wrong
        known = known_at(type, error)
        said = f"{error}; known are {', '.join(known)}" if known else str(error)
        raise kind(f"{said}; /docs shows what this route takes") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error


def check_filter(error: msgspec.ValidationError) -> None:
    """Raises `InvalidFilter` when the error is that a `filter` is none at all."""
    if _AT_FILTER.search(str(error)):
        raise InvalidFilter(
            f"{error}; write an object of fields and conditions", path=""
        ) from error


class _Inflater(Protocol):
    def inflate(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` expands to, in bounded pieces."""
        ...

    def finish(self) -> None:
        """Raise when the compressed data has not come to its end."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._begun = False

    def inflate(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._stream.eof:  # another member follows (RFC 1952, section 2.2)
                self._stream = zlib.decompressobj(wbits=31)
            self._begun = True
            yield self._stream.decompress(piece, PIECE_BYTES)
            while self._stream.unconsumed_tail:
                yield self._stream.decompress(self._stream.unconsumed_tail, PIECE_BYTES)
            piece = self._stream.unused_data

    def finish(self) -> None:
        if self._begun and not self._stream.eof:
            raise InvalidInput("the gzip body ends too early; send it whole")


class _Zstd:
    """Frames of zstd (RFC 8878). Input is fed in small steps, which bounds each expansion.

    The library has no bound of its own, and four bytes can stand for a block of 128 KiB (section
    3.1.1.2): a step gives 4 MiB at most. Small steps cost little, about 1 µs each.
    """

    STEP_BYTES = 128

    def __init__(self) -> None:
        self._new()
        self._begun = False

    def _new(self) -> None:
        self._stream = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()

    def inflate(self, piece: bytes) -> Iterator[bytes]:
        parts: list[bytes] = []
        size = 0
        for start in range(0, len(piece), self.STEP_BYTES):
            step = piece[start : start + self.STEP_BYTES]
            while step:
                if self._stream.eof:
                    self._new()
                self._begun = True
                parts.append(self._stream.decompress(step))
                size += len(parts[-1])
                step = self._stream.unused_data if self._stream.eof else b""
            if size >= PIECE_BYTES:
                yield b"".join(parts)
                parts.clear()
                size = 0
        yield b"".join(parts)

    def finish(self) -> None:
        if self._begun and not self._stream.eof:
            raise InvalidInput("the zstd body ends too early; send it whole")


def check_encoding(encoding: str) -> None:
    """Raises `UnsupportedEncoding` for a `Content-Encoding` that is not understood."""
    if encoding.strip().lower() not in ("", "identity", "gzip", "x-gzip", "zstd"):
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding!r} is not understood; send gzip, zstd or none"
        )


async def decoded(body: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The body without its content encoding. Raises `InvalidInput` when it is damaged."""
    check_encoding(encoding)
    name = encoding.strip().lower()
    if name in ("", "identity"):
        async for piece in body:
            yield piece
        return
    inflater: _Inflater = _Zstd() if name == "zstd" else _Gzip()
    try:
        async for piece in body:
            for part in inflater.inflate(piece):
                if part:
                    yield part
    except (zlib.error, zstandard.ZstdError) as error:
        raise InvalidInput(f"the body is not valid {name}: {error}") from error
    inflater.finish()
