"""One request and its response, whole or in parts."""

from __future__ import annotations

from typing import Any

from headwater.api.socket import frames
from headwater.api.socket.frames import RequestId
from headwater.api.socket.outbox import Outbox
from headwater.errors import HeadwaterError


class Exchange:
    """`size_bytes` is what the request's data took on the wire. `parts` were sent so far."""

    def __init__(self, id: RequestId, size_bytes: int, outbox: Outbox) -> None:
        self.id = id
        self.size_bytes = size_bytes
        self.parts = 0
        self._outbox = outbox

    async def whole(self, answer: Any) -> None:
        """Send the answer, once the client takes it."""
        await self.part(frames.encode(answer), last=True)

    async def part(self, data: bytes, *, last: bool) -> None:
        part, self.parts = self.parts, self.parts + 1
        await self._outbox.send(frames.response(self.id, data, part=part, last=last))

    async def failed(self, error: HeadwaterError) -> None:
        await self._outbox.send(frames.failure(self.id, error, part=self.parts))
