"""Which views must go when together they take more memory than they may.

`Follower` asks whenever one has grown, `Upkeep` when it has nothing better to do. What is let go of
is a cache: the next question opens it again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from headwater.search.slot import Slot

S = TypeVar("S", bound=Slot[Any])


def overweight(slots: Collection[S], memory_bytes: int) -> list[S]:
    """Ready ones to let go of, those used longest ago first.

    Never the one used last, which may be larger than everything allowed and must answer all the
    same; nor one that a question waits for, or several would open each other's away for ever.
    What is being made counts, and stays.
    """
    total = sum(slot.memory_bytes for slot in slots)
    if total <= memory_bytes:
        return []
    last = max(slots, key=lambda slot: slot.used_at)
    idle = [slot for slot in slots if slot.ready and not slot.asked and slot is not last]
    going = []
    for slot in sorted(idle, key=lambda slot: slot.used_at):
        if total <= memory_bytes:
            break
        going.append(slot)
        total -= slot.memory_bytes
    return going
