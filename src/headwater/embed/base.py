"""What an embedder is. Implementations sit beside this file; `service` and `search` use them.

An embedder must never block the loop: it owns a lane, or awaits a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import anyio.abc

from headwater.model import Vectors

Kind = Literal["document", "query"]


class Embedder(ABC):
    """Text in, vectors out.

    `identity` names the exact model and version: a library is bound to it for life.
    """

    name: str
    identity: str
    dimension: int

    @abstractmethod
    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Load, say started, serve until cancelled. Raises when the model cannot be loaded."""

    @abstractmethod
    async def embed(self, texts: Sequence[str], kind: Kind = "document") -> Vectors:
        """One vector per text, in order: float32, (n, dimension), unit length.

        A text with nothing to embed gives the zero vector. Raises `EmbedderUnavailable` when it
        may work later, `EmbedderFailed` when it will not before somebody changes something.
        """

    def statistics(self) -> dict[str, Any]:
        """Figures since the start, JSON-ready, for people. Never a secret."""
        return {}
