"""What the sockets of this process do and have done: `/v1/websockets/statistics`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SocketStatistics:
    """Counted since this process started; `bytes_…` are those of sockets that have closed."""

    accepted: int = 0
    refused: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    closed: Counter[int] = field(default_factory=Counter)
    events: int = 0
    deltas: int = 0
    fallbacks: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def snapshot(self) -> dict[str, Any]:
        return {
            "total_connections": self.accepted,
            "total_refused": self.refused,
            "total_requests": self.requests.total(),
            "requests": dict(sorted(self.requests.items())),
            "total_errors": self.errors.total(),
            "errors": dict(sorted(self.errors.items())),
            "closed": {str(code): count for code, count in sorted(self.closed.items())},
            "total_events": self.events,
            "total_live_events": self.deltas,
            "slow_fallbacks": self.fallbacks,
        }
