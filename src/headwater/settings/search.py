"""Searching, and searches that stay open."""

from __future__ import annotations

from pydantic import Field

from headwater.settings.section import (
    GiB,
    MiB,
    Seconds,
    Section,
    count,
    every,
    in_bytes,
    in_seconds,
)


class SearchSettings(Section):
    """The vector view."""

    ef_search: int = count(104, "HNSW candidates per search (efSearch).", least=16, most=10_000)
    ef_construction: int = count(
        100, "HNSW candidates per insert (efConstruction).", least=16, most=10_000
    )
    seal_rows: int = count(8_192, "Rows in the head before it becomes a segment.", least=16)
    exact_rows: int = count(
        4_096, "Libraries up to this many chunks are always searched exactly.", least=0
    )
    max_dead_fraction: float = Field(
        0.3, gt=0, le=1, description="Dead rows in a segment before it is rebuilt."
    )
    settle: Seconds = in_seconds(2, "Quiet time after which the head and small segments are merged")
    snapshot_every: Seconds = every(60, "How often a changed view is saved")
    memory_bytes: int = Field(
        8 * GiB, ge=MiB, description="Memory for loaded views; the least used are unloaded."
    )
    keyword_memory_bytes: int = Field(
        2 * GiB,
        ge=MiB,
        description="Memory for loaded keyword indexes, their mapped files included; the least "
        "used are unloaded.",
    )
    threads: int = count(1, "Threads that search at once.", most=64)
    max_wait: Seconds = in_seconds(
        10, "How long a read with `min_cursor`, and a write, wait for the views"
    )


class LiveSettings(Section):
    """Live queries and alerts."""

    max_watches: int = count(20_000, "Live queries open at once in one process.")
    max_watches_per_library: int = count(
        20_000, "Live queries open at once on one library, per process."
    )
    margin: int = count(
        20,
        "Hits kept beyond those a live query shows, at least: what moves up when others leave.",
        least=0,
        most=10_000,
    )
    max_hits: int = count(
        8_000_000,
        "Hits kept for all live queries of one library, per process, shown or not; 12 bytes each.",
        least=1_000,
    )
    step_rows: int = count(1_024, "Chunks compared with all live queries in one go.")
    resume_changes: int = count(
        20_000,
        "A live query is resumed by its difference when the library has changed at most so often "
        "since, a change of many chunks counted for each; else with a new snapshot.",
        least=0,
    )
    sending_bytes: int = in_bytes(
        512 * MiB,
        "Large groups of events, from 64 KiB, that readers of live queries have not read yet, all "
        "together",
        least=MiB,
    )
    max_alerts: int = count(100_000, "Alerts of one library.")
