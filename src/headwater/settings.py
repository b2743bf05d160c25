"""Every setting: name, type, default, unit and a sentence.

Built once at the edge (the CLI or `app.create_app`) from flags and `HEADWATER_…` variables; each
part is given its own section and reads no environment itself. A section's field is set as
`HEADWATER_<SECTION>__<FIELD>`, for example `HEADWATER_STORE__DURABILITY=normal`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def _seconds(value: object) -> object:
    """A number in text is seconds: the environment has only text, and pydantic refuses "30"."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(Section):
    """The embedded store."""

    durability: Literal["full", "normal"] = Field(
        "full",
        description="`full` syncs every commit: a power cut takes nothing acknowledged. `normal` "
        "syncs at checkpoints: a power cut can take the last seconds; a killed process cannot.",
    )
    readers: int = Field(4, ge=1, le=64, description="Threads that read the store at once.")
    cache_bytes: int = Field(
        32 * MiB,
        ge=MiB,
        description="SQLite page cache of the writer, in bytes; each reader has an eighth.",
    )
    poll_ms: int = Field(
        10,
        ge=1,
        le=10_000,
        description="How often to look for commits of other processes, in milliseconds.",
    )
    busy_timeout_ms: int = Field(
        30_000, ge=100, description="How long a write waits for another process, in milliseconds."
    )
    max_snapshot: Seconds = Field(
        timedelta(minutes=10),
        description="The longest an export may hold one point of history open, in seconds.",
    )


class LogSettings(Section):
    """The change log and the ring of recent commits in front of it."""

    ring_bytes: int = Field(
        24 * MiB, ge=MiB, description="Memory for recent commits, vectors included, in bytes."
    )
    retention_age: Seconds = Field(
        timedelta(days=7), description="Changes older than this are trimmed, in seconds."
    )
    retention_changes: int = Field(
        10_000_000, ge=1_000, description="At most this many changes are kept."
    )
    trim_every: Seconds = Field(
        timedelta(minutes=1), description="How often the log is trimmed, in seconds."
    )


class IngestSettings(Section):
    """Documents coming in, one by one and as streams."""

    group_lines: int = Field(512, ge=1, description="Stream lines committed together, at most.")
    group_bytes: int = Field(
        MiB, ge=KiB, description="Bytes of stream lines committed together, at most."
    )
    linger_ms: int = Field(
        5,
        ge=0,
        description="How long a started group waits for more lines when the sender pauses, "
        "in milliseconds.",
    )
    spill_memory_bytes: int = Field(
        4 * MiB,
        ge=64 * KiB,
        description="Unread answer lines of a stream kept in memory before they go to a "
        "temporary file, in bytes.",
    )
    spill_file_bytes: int = Field(
        4 * GiB,
        ge=MiB,
        description="Unread answer lines of a stream kept in the temporary file before the "
        "stream stops reading its body, in bytes.",
    )
    chunk_size: int = Field(
        1_000, ge=32, description="Default upper size of a chunk of `text`, in characters."
    )
    chunk_overlap: int = Field(
        100, ge=0, description="Default overlap of neighbouring chunks, in characters."
    )


class SearchSettings(Section):
    """The vector view."""

    ef_search: int = Field(
        144, ge=16, le=10_000, description="HNSW candidates per search (efSearch)."
    )
    ef_construction: int = Field(
        100, ge=16, le=10_000, description="HNSW candidates per insert (efConstruction)."
    )
    seal_rows: int = Field(
        8_192, ge=16, description="Rows in the head before it becomes a segment."
    )
    exact_rows: int = Field(
        4_096, ge=0, description="Libraries up to this many chunks are always searched exactly."
    )
    max_dead_fraction: float = Field(
        0.3, gt=0, le=1, description="Dead rows in a segment before it is rebuilt."
    )
    settle: Seconds = Field(
        timedelta(seconds=2),
        description="Quiet time after which the head and small segments are merged, in seconds.",
    )
    snapshot_every: Seconds = Field(
        timedelta(seconds=60), description="How often a changed view is saved, in seconds."
    )
    memory_bytes: int = Field(
        8 * GiB, ge=MiB, description="Memory for loaded views; the least used are unloaded."
    )
    threads: int = Field(1, ge=1, le=64, description="Threads that search at once.")
    max_wait: Seconds = Field(
        timedelta(seconds=10),
        description="How long a read with `min_cursor`, and a write, wait for the views, "
        "in seconds.",
    )


class FeedSettings(Section):
    """Event streams."""

    heartbeat: Seconds = Field(
        timedelta(seconds=15), description="Comment sent on a quiet event stream, in seconds."
    )
    progress: Seconds = Field(
        timedelta(seconds=5),
        description="How often a filtered stream with nothing to tell sends its cursor, "
        "in seconds.",
    )
    max_age: Seconds = Field(
        timedelta(hours=1), description="An event stream says goodbye at this age, in seconds."
    )
    retry_ms: int = Field(
        1_000, ge=0, description="Reconnection delay told to event streams, in milliseconds."
    )
    stall: Seconds = Field(
        timedelta(seconds=60),
        description="A reader that takes nothing for this long is disconnected, in seconds.",
    )
    write_bytes: int = Field(
        256 * KiB, ge=KiB, description="Largest piece handed to a socket at once, in bytes."
    )
    page_changes: int = Field(
        500, ge=1, description="Changes read from the store at once by a reader behind the ring."
    )
    max_subscribers: int = Field(
        10_000, ge=1, description="Event streams open at once in one process."
    )


class LimitSettings(Section):
    """What one request may ask for."""

    body_bytes: int = Field(
        32 * MiB, ge=KiB, description="Largest JSON body of a request that is no stream, in bytes."
    )
    line_bytes: int = Field(4 * MiB, ge=KiB, description="Longest line of a stream, in bytes.")
    stream_lines: int | None = Field(
        None, ge=1, description="Lines in one stream; unlimited when not set."
    )
    streams: int = Field(256, ge=1, description="Document streams in and out at once, per process.")
    batch_documents: int = Field(1_000, ge=1, description="Documents in one batch request.")
    batch_queries: int = Field(100, ge=1, description="Queries in one batch search.")
    page_items: int = Field(1_000, ge=1, description="Items in one page of a listing.")
    k: int = Field(10_000, ge=1, description="Results of one search.")
    query_chars: int = Field(10_000, ge=1, description="Length of a text query, in characters.")
    dimension: int = Field(4_096, ge=1, description="Dimension of a library.")
    chunks_per_document: int = Field(10_000, ge=1, description="Chunks of one document.")
    wait: Seconds = Field(timedelta(seconds=60), description="Longest long-poll, in seconds.")


class Settings(BaseSettings):
    """The server's settings. Frozen; flags win over `HEADWATER_…` variables."""

    model_config = SettingsConfigDict(
        env_prefix="HEADWATER_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    data: Path = Field(Path("data"), description="Folder of the store and its index files.")
    workers: int = Field(1, ge=1, le=64, description="Server processes on this data folder.")
    allow_open: bool = Field(
        False,
        description="Listen on an address others can reach although there are no API keys.",
    )
    stop_timeout: Seconds = Field(
        timedelta(seconds=5), description="How long a stopping server waits, in seconds."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )

    store: StoreSettings = StoreSettings()
    log: LogSettings = LogSettings()
    ingest: IngestSettings = IngestSettings()
    search: SearchSettings = SearchSettings()
    feeds: FeedSettings = FeedSettings()
    limits: LimitSettings = LimitSettings()
