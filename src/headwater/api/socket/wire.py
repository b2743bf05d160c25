"""One open WebSocket, as the rest of this folder sees it.

The server's protocol implements it and hands it over in the ASGI scope. Messages are text, already
encoded; writing never waits, and whoever has much to write asks first whether the peer takes it.
It holds no message of its own: what is not written stays with whoever wants to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol

EXTENSION = "headwater.wire"
"""Where a `Wire` stands in the scope's extensions."""


class SocketClosed(Exception):
    """The socket is closed, or closing: nothing more can be sent."""

    def __init__(self) -> None:
        super().__init__("the socket is closed")


class Wire(Protocol):
    """Loop only."""

    @property
    def writable(self) -> bool:
        """Whether the peer takes what is sent: false from a high-water mark down to a low one."""
        ...

    @property
    def bytes_received(self) -> int: ...

    @property
    def bytes_sent(self) -> int: ...

    @property
    def close_code(self) -> int:
        """The code of the close frame, ours or the peer's; 1006 while and where there is none."""
        ...

    def write(self, messages: Sequence[bytes]) -> None:
        """Send text messages, UTF-8, in order and at once. Raises `SocketClosed`."""
        ...

    def write_framed(self, data: bytes) -> None:
        """Send text messages that `framed` has framed already. Raises `SocketClosed`."""
        ...

    @property
    def direct(self) -> Callable[[bytes], object]:
        """`write_framed` without a look at anything, and nothing is counted.

        Only between two calls of what `on_change` was given, the socket open and writable.
        """
        ...

    def count(self, size_bytes: int) -> None:
        """So much was sent by `direct`."""
        ...

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call `tell` whenever `writable` changes, and when the socket closes."""
        ...

    def keep_alive(self, every: timedelta, timeout: timedelta) -> None:
        """Ping so often, and give the peer so long to answer, in place of the server's settings."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close; what was written goes first. Does nothing when already closing."""
        ...

    async def wait_closed(self) -> None:
        """Return once the connection is gone."""
        ...


def wire_of(scope: Any) -> Wire | None:
    """The wire of an ASGI scope; None when the server has none to give."""
    found: Wire | None = scope.get("extensions", {}).get(EXTENSION)
    return found
