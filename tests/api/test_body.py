"""Request bodies: decoded in bounded steps, whatever was sent."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

import msgspec
import pytest
import zstandard
from fastapi import Request

from headwater.api.body import PIECE_BYTES, check_encoding, decode, decoded, read_body
from headwater.errors import BodyTooLarge, HeadwaterError, InvalidInput, UnsupportedEncoding

pytestmark = pytest.mark.anyio

TEXT = b"".join(
    b'{"id":"%d","text":"some words of number %d"}\n' % (n, n * n) for n in range(2_000)
)


async def body(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def cut(data: bytes, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    pieces = []
    while data:
        size = rng.choice([1, 2, 3, 17, 1_000, 65_536])
        pieces.append(data[:size])
        data = data[size:]
    return pieces


async def expand(pieces: Iterable[bytes], encoding: str) -> bytes:
    return b"".join([piece async for piece in decoded(body(pieces), encoding)])


ENCODED = {
    "gzip": [
        gzip.compress(TEXT),
        gzip.compress(TEXT[:10]) + gzip.compress(b"") + gzip.compress(TEXT[10:]),
    ],
    "zstd": [
        zstandard.compress(TEXT),
        zstandard.compress(TEXT[:10]) + zstandard.compress(TEXT[10:]),
        zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(TEXT),
    ],
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("encoding", "data"), [(name, data) for name, kinds in ENCODED.items() for data in kinds]
)
async def test_members_and_frames_expand_however_they_are_cut(
    encoding: str, data: bytes, seed: int
) -> None:
    assert await expand(cut(data, seed), encoding) == TEXT
    assert await expand([data], encoding) == TEXT


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", " GZIP "])
async def test_gzip_by_its_other_names(encoding: str) -> None:
    assert await expand([gzip.compress(b"a")], encoding) == b"a"


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
async def test_no_encoding_passes_as_it_is(encoding: str) -> None:
    assert await expand([b"a", b"b"], encoding) == b"ab"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_nothing_expands_to_nothing(encoding: str) -> None:
    assert await expand([], encoding) == b""


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "gzip,gzip", "nonsense"])
async def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        check_encoding(encoding)
    with pytest.raises(UnsupportedEncoding):
        await expand([b"a"], encoding)


@pytest.mark.parametrize(
    ("encoding", "data"), [(name, data) for name, kinds in ENCODED.items() for data in kinds]
)
async def test_a_truncated_body_is_an_error(encoding: str, data: bytes) -> None:
    for length in (1, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(InvalidInput) as caught:
            await expand([data[:length]], encoding)
        assert type(caught.value) is InvalidInput


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", b"this is no gzip"),
        ("zstd", b"this is no zstd"),
        ("gzip", zstandard.compress(b"a")),
        ("zstd", gzip.compress(b"a")),
        ("gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8),
        ("gzip", gzip.compress(b"a") + b"rest"),
        ("zstd", zstandard.compress(b"a") + b"rest"),
        ("zstd", ENCODED["zstd"][2][:-4] + b"\0" * 4),
        ("gzip", zlib.compress(b"a")),
    ],
)
async def test_a_damaged_body_is_an_error(encoding: str, data: bytes) -> None:
    with pytest.raises(InvalidInput):
        await expand(cut(data, 1), encoding)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_expands_in_bounded_pieces(encoding: str) -> None:
    zeros = bytes(64 << 20)
    bomb = gzip.compress(zeros) if encoding == "gzip" else zstandard.compress(zeros)
    assert len(bomb) < 100_000
    largest = total = 0
    async for piece in decoded(body([bomb]), encoding):
        largest = max(largest, len(piece))
        total += len(piece)
    assert total == len(zeros)
    assert largest <= (PIECE_BYTES if encoding == "gzip" else PIECE_BYTES + (4 << 20))


def request(pieces: list[bytes], encoding: str | None = None) -> Request:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    queue = iter(messages)

    async def receive() -> Any:
        return next(queue)

    headers = [(b"content-encoding", encoding.encode())] if encoding else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def test_a_body_of_just_the_limit_is_read() -> None:
    assert await read_body(request([b"a" * 60, b"b" * 40]), 100) == b"a" * 60 + b"b" * 40
    assert await read_body(request([gzip.compress(b"a" * 100)], "gzip"), 100) == b"a" * 100
    assert await read_body(request([]), 100) == b""


@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
async def test_a_body_over_the_limit_is_given_up_early(encoding: str | None) -> None:
    zeros = bytes(64 << 20)
    if encoding is None:
        pieces = [zeros[:60]] * 1_000
    elif encoding == "gzip":
        pieces = [gzip.compress(zeros)]
    else:
        pieces = [zstandard.compress(zeros)]
    with pytest.raises(BodyTooLarge) as caught:
        await read_body(request(pieces, encoding), 100)
    assert caught.value.fields["limit_bytes"] == 100


async def test_a_damaged_body_says_which_encoding() -> None:
    with pytest.raises(HeadwaterError, match="gzip"):
        await read_body(request([b"nonsense"], "gzip"), 100)


class Size(msgspec.Struct, forbid_unknown_fields=True):
    width: int = 0
    unit: Literal["cm", "inch"] = "cm"


class Box(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    colour: Literal["red", "blue"] | None = None
    size: Size | int = 0
    inside: list[Size] = []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b'{"limit":3}', "known are name, colour, size, inside;"),
        (b'{"colour":"green"}', "known are blue, red;"),
        (b'{"size":{"height":3}}', "known are width, unit;"),
        (b'{"inside":[{},{"unit":"mile"}]}', "known are cm, inch;"),
        (b'{"inside":[{"x":1}]}', "known are width, unit;"),
    ],
)
def test_what_would_have_fitted_is_named(given: bytes, says: str) -> None:
    with pytest.raises(HeadwaterError) as caught:
        decode(given, Box)
    assert says in caught.value.detail


def test_an_error_of_another_kind_lists_nothing() -> None:
    for given in (b'{"name":3}', b"[]", b'{"size":"large"}'):
        with pytest.raises(InvalidInput) as caught:
            decode(given, Box)
        assert "known are" not in caught.value.detail
