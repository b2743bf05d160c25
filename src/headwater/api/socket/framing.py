"""Messages as WebSocket frames, and those of one event put together once for a whole crowd.

RFC 6455, section 5.2: text, unmasked, unfragmented.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from headwater.api.socket import frames
from headwater.feeds.event import Event

KEPT_BYTES = 1 << 20
"""Frames kept for others under further ids. Most sockets have one subscription, the first."""


def framed(messages: Sequence[bytes]) -> list[bytes]:
    """The heads of the frames and the messages, by turns."""
    parts: list[bytes] = []
    for message in messages:
        parts += (_head(len(message)), message)
    return parts


def _head(size: int) -> bytes:
    if size < 126:
        return bytes((0x81, size))
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size)
    return struct.pack("!BBQ", 0x81, 127, size)


class SharedFrames:
    """Frames of the events told last, by the id of the subscription that they are told to.

    The pump hands the same events to one socket after the other, and to most under the same id.
    They are encoded once, and those that wait in many sockets' buffers are there once. One for all
    sockets of a process. Loop only.
    """

    def __init__(self) -> None:
        self._events: Sequence[Event] = ()
        self._made: dict[str, bytes] = {}
        self._size_bytes = 0

    def of(self, subscription_id: str, events: Sequence[Event]) -> bytes:
        """Their frames, to be written as they are."""
        if events is self._events:
            made = self._made.get(subscription_id)
            if made is not None:
                return made
        else:
            self._events, self._made, self._size_bytes = events, {}, 0
        made = b"".join(framed([frames.event(subscription_id, one.json) for one in events]))
        if not self._made or self._size_bytes + len(made) <= KEPT_BYTES:
            self._made[subscription_id] = made
            self._size_bytes += len(made)
        return made
