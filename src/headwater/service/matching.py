"""Finding stored documents by a filter, a bounded stretch at a time.

For what wants documents rather than chunks: listings and deletes. They look at the documents
themselves, so that they need no view, see their own transaction, and know where to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from headwater.filters import Filter, matches

SCANNED_DOCUMENTS = 5_000
"""Documents looked at in one read: some 40 ms of a reading thread."""

_SLICE = 250

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class HasMetadata(Protocol):
    @property
    def row(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def metadata(self) -> bytes: ...


Found = TypeVar("Found", bound=HasMetadata)


def meets(filter: Filter | None, metadata: bytes) -> bool:
    """Whether stored metadata meets the filter; without one it does."""
    return filter is None or matches(filter, _decode(metadata))


def find(
    read: Callable[[int, int], Sequence[Found]],
    filter: Filter,
    after_row: int,
    limit: int,
    *,
    scanned: int = SCANNED_DOCUMENTS,
) -> tuple[list[Found], int | None]:
    """Up to `limit` matching documents after `after_row`, and the row to go on after.

    `read(after_row, limit)` gives documents by rising row. At most `scanned` are looked at, so
    that fewer may be found although more are left; the row is None when there are none.
    """
    found: list[Found] = []
    looked_at = 0
    while looked_at < scanned:
        page = read(after_row, _SLICE)
        for document in page:
            looked_at += 1
            after_row = document.row
            if meets(filter, document.metadata):
                found.append(document)
                if len(found) == limit:
                    return found, after_row if read(after_row, 1) else None
        if len(page) < _SLICE:
            return found, None
    return found, after_row
