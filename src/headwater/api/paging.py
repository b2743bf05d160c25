"""Page tokens of listings: a row number, opaque to clients."""

from __future__ import annotations

import base64
import binascii

from headwater.errors import InvalidCursor


def next_token(row: int) -> str:
    return base64.urlsafe_b64encode(b"row:%d" % row).decode().rstrip("=")


def read_token(token: str | None) -> int:
    """The row after which the page begins; 0 for the first page. Raises `InvalidCursor`."""
    if token is None:
        return 0
    try:
        kind, _, row = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).partition(b":")
        if kind == b"row" and 0 <= (number := int(row)) < 1 << 63:
            return number
    except (binascii.Error, ValueError):
        pass
    raise InvalidCursor("`after` is not the `next` of a page; leave it out for the first page")
