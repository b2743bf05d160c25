"""Frames of a crowd: right as any client reads them, made once, kept within bounds."""

from __future__ import annotations

import json

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from headwater.api.socket.framing import KEPT_BYTES, SharedFrames, framed
from headwater.feeds.event import Event


def events(*sizes: int) -> tuple[Event, ...]:
    return tuple(
        Event(f"log.{number}", "document.added", b'{"id":"log.%d","pad":"%b"}' % (number, b"x" * n))
        for number, n in enumerate(sizes)
    )


def read(data: bytes) -> list[Frame]:
    """As the parser of `websockets` reads what a server sends."""
    stream = StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    frames: list[Frame] = []
    while stream.buffer:
        parsing = Frame.parse(stream.read_exact, mask=False)
        with pytest.raises(StopIteration) as parsed:
            next(parsing)
        frames.append(parsed.value.value)
    return frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_messages_of_any_size_are_read_as_they_were(size: int) -> None:
    messages = [b"x" * size, b"", b"y" * size]
    frames = read(b"".join(framed(messages)))
    assert [frame.data for frame in frames] == messages
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in frames)


def test_sockets_with_the_same_id_share_what_was_made_once() -> None:
    shared, told = SharedFrames(), events(10, 300, 70_000)
    first, other = shared.of("subscription-1", told), shared.of("subscription-2", told)
    assert shared.of("subscription-1", told) is first
    assert shared.of("subscription-2", told) is other
    for id, data in (("subscription-1", first), ("subscription-2", other)):
        frames = [json.loads(bytes(frame.data)) for frame in read(data)]
        assert [frame["subscription_id"] for frame in frames] == [id] * 3
        assert [frame["event"]["id"] for frame in frames] == ["log.0", "log.1", "log.2"]


def test_other_events_are_never_told_for_those_before() -> None:
    shared = SharedFrames()
    equal, again = events(10), events(10)
    first = shared.of("subscription-1", equal)
    assert shared.of("subscription-1", events(11)) != first
    assert shared.of("subscription-1", again) == first
    assert shared.of("subscription-1", ()) == b""


def test_what_is_kept_for_many_ids_is_bounded() -> None:
    shared, told = SharedFrames(), events(KEPT_BYTES // 3)
    made = [shared.of(f"subscription-{number}", told) for number in range(10)]
    kept = [shared.of(f"subscription-{number}", told) is data for number, data in enumerate(made)]
    assert kept == [True] * 2 + [False] * 8
    large = events(4 * KEPT_BYTES)
    assert shared.of("subscription-1", large) is shared.of("subscription-1", large)
    assert len(shared.of("subscription-2", large)) > 4 * KEPT_BYTES
