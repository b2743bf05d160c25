"""The messages that arrive, put together from their frames (RFC 6455, section 5.4).

What has arrived of messages that have not ended is counted for the whole process: thousands of
peers could begin one and never end it.
"""

from __future__ import annotations

from websockets.frames import Frame, Opcode


class Unfinished:
    """Bytes of messages that have begun and not ended, of all sockets of a process."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0


class Assembly:
    """The message of one socket that is arriving. Loop only."""

    def __init__(self, unfinished: Unfinished) -> None:
        self._unfinished = unfinished
        self._message = bytearray()
        self._is_text = True
        self._held_bytes = 0

    def take(self, frame: Frame) -> str | bytes | None:
        """The message that this data frame ends, if it does; `str` when it is text.

        Raises `UnicodeDecodeError`.
        """
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
            if not frame.fin:
                self._message = bytearray(frame.data)
                return None
            return self._whole(frame.data)
        self._message += frame.data
        if not frame.fin:
            return None
        message, self._message = self._message, bytearray()
        return self._whole(message)

    def hold(self, buffered_bytes: int) -> bool:
        """Count what is kept, the parser's own buffer included.

        False when it has grown and is too much for the process.
        """
        grown = buffered_bytes + len(self._message) - self._held_bytes
        self._held_bytes += grown
        self._unfinished.bytes += grown
        return grown <= 0 or self._unfinished.bytes <= self._unfinished.limit_bytes

    def clear(self) -> None:
        """Keep nothing any more."""
        self._message = bytearray()
        self.hold(0)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def _whole(self, message: bytes | bytearray | memoryview) -> str | bytes:
        return str(message, "utf-8") if self._is_text else bytes(message)
