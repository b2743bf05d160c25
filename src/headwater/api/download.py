"""A file as an answer: whole, or the range that was asked for (RFC 9110, section 14).

Read a piece at a time in a thread, so that neither its size nor a slow client costs memory. Of
several ranges none is given: the whole file is, as the section allows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import IO

import anyio
import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headwater.api.streaming import ClientStalled, Outbound
from headwater.errors import FileMissing, RangeNotSatisfiable
from headwater.threads import Pool

_READ_BYTES = 256 << 10
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*")

log = structlog.get_logger(__name__)


class Download(Response):
    """Sends `path`, or its first `size` bytes.

    `etag` names that content, quoted; it must not change under that name.

    Raises `FileMissing`, `RangeNotSatisfiable` when it is made.
    """

    def __init__(
        self,
        path: Path,
        *,
        headers: Headers,
        etag: str,
        name: str,
        media_type: str,
        pool: Pool,
        stall: timedelta,
        size: int | None = None,
    ) -> None:
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise FileMissing("the file is not there (any more)") from error
        found = os.fstat(self._file.fileno())
        size = found.st_size if size is None else min(size, found.st_size)
        modified = formatdate(found.st_mtime, usegmt=True)
        try:
            wanted = _wanted(headers, size, etag, modified)
        except RangeNotSatisfiable:
            self._file.close()
            raise
        self._first, self._last = wanted or (0, size - 1)
        self._pool = pool
        self._stall = stall
        self.status_code = 200 if wanted is None else 206
        self.media_type = media_type
        self.background = None
        self.body = b""
        told: dict[str, str] = {
            "accept-ranges": "bytes",
            "cache-control": "private, no-transform",
            "content-disposition": f'attachment; filename="{name}"',
            "content-length": str(self._last - self._first + 1),
            "etag": etag,
            "last-modified": modified,
        }
        if wanted is not None:
            told["content-range"] = f"bytes {self._first}-{self._last}/{size}"
        self.init_headers(told)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_leave_with_client, receive, tasks.cancel_scope)
                await send(start)
                if scope["method"] != "HEAD":
                    await self._send(Outbound(send))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                tasks.cancel_scope.cancel()
        except* ClientStalled:
            log.info("download.client_stalled", path=scope.get("path"))
        finally:
            self._file.close()

    async def _send(self, outbound: Outbound) -> None:
        at, left = self._first, self._last - self._first + 1
        while left:
            piece = await self._pool.call(os.pread, self._file.fileno(), min(left, _READ_BYTES), at)
            if not piece:
                raise RuntimeError("the file of a download was cut short")
            await outbound.send(piece, stall=self._stall)
            at += len(piece)
            left -= len(piece)


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _wanted(
    headers: Mapping[str, str], size: int, etag: str, modified: str
) -> tuple[int, int] | None:
    """The first and last byte of the range that is asked for; None for all.

    Raises `RangeNotSatisfiable`.
    """
    asked = headers.get("range")
    if asked is None or not _still(headers.get("if-range"), etag, modified):
        return None
    match = _RANGE.fullmatch(asked)
    if match is None or not (match[1] or match[2]):
        return None  # of another unit, malformed, or several: to be passed over
    if match[1]:
        first = int(match[1])
        last = min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < first:
            return None
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first >= size or (not match[1] and int(match[2]) == 0):
        raise RangeNotSatisfiable(
            f"the file has {size} bytes; ask for a range that begins before its end",
            size_bytes=size,
        )
    return first, last


def _still(condition: str | None, etag: str, modified: str) -> bool:
    """Whether `If-Range` holds: a strong entity tag, or the very time of the last change."""
    if condition is None:
        return True
    condition = condition.strip()
    if condition.startswith(('"', "W/")):
        return condition == etag
    try:
        return parsedate_to_datetime(condition) == parsedate_to_datetime(modified)
    except ValueError:
        return False
