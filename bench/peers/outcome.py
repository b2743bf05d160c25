"""What was found out about one contender; and how a setting is chosen for it.

Also imported inside the peers' environments: the standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

Setting = TypeVar("Setting")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times in seconds from the first byte sent: `searchable_seconds` until a query finds what was
    stored last, `complete_seconds` until the index has everything and the machine rests.
    `client_share` is the part of one core that the load generator took while searching."""

    name: str
    version: str
    spoken: str
    durability: str
    ingest: str
    index: str
    documents: int
    searchable_seconds: float
    complete_seconds: float
    recall: float
    per_second: float
    p50_ms: float
    p99_ms: float
    client_share: float

    @property
    def ingest_per_second(self) -> float:
        return self.documents / self.searchable_seconds

    @property
    def complete_per_second(self) -> float:
        return self.documents / self.complete_seconds

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Outcome:
        return cls(**json.loads(text))


async def cheapest(
    settings: Sequence[Setting], goal: float, recall: Callable[[Setting], Awaitable[float]]
) -> tuple[Setting, float]:
    """The first of `settings`, cheapest first, that reaches `goal`; else the best of them."""
    tried: list[tuple[float, Setting]] = []
    for setting in settings:
        found = await recall(setting)
        print(f"    {setting}: recall {found}", flush=True)
        if found >= goal:
            return setting, found
        tried.append((found, setting))
    found, setting = max(tried, key=lambda pair: pair[0])
    return setting, found
