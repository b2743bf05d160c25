"""The store and the log in front of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from headwater.settings.section import (
    MiB,
    Seconds,
    Section,
    count,
    every,
    in_bytes,
    in_milliseconds,
    in_seconds,
)


class StoreSettings(Section):
    """The embedded store."""

    durability: Literal["full", "normal"] = Field(
        "full",
        description="`full` syncs every commit: a power cut takes nothing acknowledged. `normal` "
        "syncs at checkpoints: a power cut can take the last seconds; a killed process cannot.",
    )
    readers: int = count(4, "Threads that read the store at once.", most=64)
    cache_bytes: int = Field(
        32 * MiB,
        ge=MiB,
        description="SQLite page cache of the writer, in bytes; each reader has an eighth.",
    )
    poll_ms: int = in_milliseconds(
        10, "How often to look for commits of other processes", most=10_000
    )
    busy_timeout_ms: int = in_milliseconds(
        30_000, "How long a write waits for another process", least=100
    )
    max_snapshot: Seconds = in_seconds(
        timedelta(minutes=10), "The longest an export may hold one point of history open"
    )


class LogSettings(Section):
    """The change log and the ring of recent commits in front of it."""

    ring_bytes: int = in_bytes(24 * MiB, "Memory for recent commits, vectors included", least=MiB)
    retention_age: Seconds = in_seconds(timedelta(days=7), "Changes older than this are trimmed")
    retention_changes: int = count(10_000_000, "At most this many changes are kept.", least=1_000)
    trim_every: Seconds = every(timedelta(minutes=1), "How often the log is trimmed")
