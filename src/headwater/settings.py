"""Every setting: name, type, default, unit and a sentence.

Built once at the edge (the CLI or `app.create_app`) from flags and `HEADWATER_…` variables; each
part is given its own section and reads no environment itself. A section's field is set as
`HEADWATER_<SECTION>__<FIELD>`, for example `HEADWATER_STORE__DURABILITY=normal`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def _seconds(value: object) -> object:
    """A number in text is seconds: the environment has only text, and pydantic refuses "30"."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]

_TICK = timedelta(milliseconds=10)
"""The least time between two turns of what is done over and over."""


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
        104, ge=16, le=10_000, description="HNSW candidates per search (efSearch)."
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
    keyword_memory_bytes: int = Field(
        2 * GiB,
        ge=MiB,
        description="Memory for loaded keyword indexes, their mapped files included; the least "
        "used are unloaded.",
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


OPENAI_URL = "https://api.openai.com/v1"
COHERE_URL = "https://api.cohere.com"


class EmbedSettings(Section):
    """Embedders that are asked over HTTP, and the memory of query vectors.

    A key comes from its setting, else from its file, else, for the provider's own base URL only,
    from the variable that the provider's tools read: a key must not go to another host unasked.
    """

    allowed: str = Field(
        "*",
        description="Embedders that new libraries may have, separated by commas, `*` for any "
        "characters: `static,none,openai:text-embedding-3-*`.",
    )
    openai_base_url: str = Field(
        OPENAI_URL,
        description="Where `openai:…` embedders are: OpenAI, or what speaks as it does (Ollama, "
        "vLLM, TEI). `/embeddings` is added.",
    )
    openai_api_key: SecretStr | None = Field(
        None,
        description="Key for `openai:…`; none is sent when not set. With the default base URL "
        "`OPENAI_API_KEY` is used too.",
    )
    openai_api_key_file: Path | None = Field(
        None, description="File that holds the key for `openai:…`."
    )
    cohere_base_url: str = Field(
        COHERE_URL, description="Where `cohere:…` embedders are. `/v2/embed` is added."
    )
    cohere_api_key: SecretStr | None = Field(
        None,
        description="Key for `cohere:…`. With the default base URL `COHERE_API_KEY` and "
        "`CO_API_KEY` are used too.",
    )
    cohere_api_key_file: Path | None = Field(
        None, description="File that holds the key for `cohere:…`."
    )
    timeout: Seconds = Field(
        timedelta(seconds=90), description="Longest single call to a provider, in seconds."
    )
    connect_timeout: Seconds = Field(
        timedelta(seconds=5), description="Longest wait for a connection to it, in seconds."
    )
    document_deadline: Seconds = Field(
        timedelta(seconds=120),
        description="How long documents wait without one more of their texts being embedded, "
        "retries included, in seconds.",
    )
    query_deadline: Seconds = Field(
        timedelta(seconds=10),
        description="How long a query waits to be embedded, retries included, in seconds.",
    )
    max_inputs: int = Field(
        128, ge=1, le=2048, description="Texts in one call; 96 at most are sent to Cohere."
    )
    linger_ms: int = Field(
        3,
        ge=0,
        le=1_000,
        description="How long a call waits for more texts to share it, in milliseconds.",
    )
    concurrency: int = Field(
        4,
        ge=1,
        le=256,
        description="Calls at once per embedder for documents, and as many for queries.",
    )
    max_waiting: int = Field(
        20_000, ge=1, description="Texts that wait for one embedder before more are refused."
    )
    inputs_per_minute: int | None = Field(
        None, ge=1, description="Texts sent per minute and embedder; unlimited when not set."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Tokens (guessed: a quarter of the characters) sent per minute and embedder; "
        "unlimited when not set.",
    )
    retries: int = Field(4, ge=0, le=20, description="How often a failed call is made again.")
    backoff: Seconds = Field(
        timedelta(seconds=0.5),
        description="Longest wait before the first retry, doubled for each one more, in seconds.",
    )
    backoff_max: Seconds = Field(
        timedelta(seconds=20), description="Longest wait before any retry, in seconds."
    )
    breaker_failures: int = Field(
        5, ge=1, description="Failed calls in a row before a provider is left alone."
    )
    breaker_open: Seconds = Field(
        timedelta(seconds=15),
        description="How long it is left alone before one call tries again, in seconds.",
    )
    cache_bytes: int = Field(
        16 * MiB, ge=0, description="Memory for vectors of recent queries, in bytes; 0 keeps none."
    )
    price_per_million_tokens: float | None = Field(
        None, ge=0, description="Price that the figure `cost` is computed with, in any currency."
    )
    write_wait: Seconds = Field(
        timedelta(seconds=10),
        description="How long a write, or a group of a stream, waits for its vectors before it is "
        "stored without them as `pending_embedding`, in seconds.",
    )
    pending_backoff: Seconds = Field(
        timedelta(seconds=1),
        description="Longest wait before pending documents are tried again, doubled for each "
        "failure in a row, in seconds.",
    )
    pending_backoff_max: Seconds = Field(
        timedelta(minutes=5),
        description="Longest wait before any such try, in seconds.",
    )
    pending_refused_again: Seconds = Field(
        timedelta(hours=6),
        description="When a pending document that the embedder refused is tried again, in seconds.",
    )

    @model_validator(mode="before")
    @classmethod
    def _find_keys(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        found = dict(given)
        for name, url, variables in (
            ("openai", OPENAI_URL, ("OPENAI_API_KEY",)),
            ("cohere", COHERE_URL, ("COHERE_API_KEY", "CO_API_KEY")),
        ):
            if found.get(f"{name}_api_key"):
                continue
            if path := found.get(f"{name}_api_key_file"):
                try:
                    found[f"{name}_api_key"] = Path(path).read_text().strip()
                except (OSError, UnicodeDecodeError) as error:
                    raise ValueError(f"{name}_api_key_file cannot be read: {error}") from error
            elif found.get(f"{name}_base_url", url) == url:
                keys = (os.environ.get(variable) for variable in variables)
                found[f"{name}_api_key"] = next(filter(None, keys), None)
        return found

    @field_validator("openai_base_url", "cohere_base_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a base URL begins with http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("a base URL has no user, query or fragment; give the key by itself")
        return url.rstrip("/")

    @field_validator("openai_api_key", "cohere_api_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None or not key.get_secret_value():
            return None
        if not key.get_secret_value().isascii() or not key.get_secret_value().isprintable():
            raise ValueError("a key has visible ASCII characters only")
        return key


class LiveSettings(Section):
    """Live queries and alerts."""

    max_watches: int = Field(20_000, ge=1, description="Live queries open at once in one process.")
    max_watches_per_library: int = Field(
        20_000, ge=1, description="Live queries open at once on one library, per process."
    )
    margin: int = Field(
        20,
        ge=0,
        le=10_000,
        description="Hits kept beyond those a live query shows, at least: what moves up when "
        "others leave.",
    )
    max_hits: int = Field(
        8_000_000,
        ge=1_000,
        description="Hits kept for all live queries of one library, per process, shown or not; "
        "12 bytes each.",
    )
    step_rows: int = Field(
        1_024, ge=1, description="Chunks compared with all live queries in one go."
    )
    resume_changes: int = Field(
        20_000,
        ge=0,
        description="A live query is resumed by its difference when the library has changed at "
        "most so often since, a change of many chunks counted for each; else with a new snapshot.",
    )
    max_alerts: int = Field(100_000, ge=1, description="Alerts of one library.")


class WebSocketSettings(Section):
    """WebSockets: what one of them may ask for, and how many there may be."""

    max_sockets: int = Field(10_000, ge=1, description="WebSockets open at once in one process.")
    origins: str = Field(
        "",
        description="Web pages of other sites that may open a WebSocket, separated by commas, `*` "
        "for any characters: `https://*.example.org`. Pages of the server's own host and of this "
        "machine always may, and so may what is no page.",
    )
    message_bytes: int = Field(
        4 * MiB, ge=KiB, description="Largest message a client may send, in bytes."
    )
    unfinished_bytes: int = Field(
        256 * MiB,
        ge=MiB,
        description="Memory for messages that have begun to arrive, of all sockets of a process, "
        "in bytes.",
    )
    part_bytes: int = Field(
        256 * KiB,
        ge=KiB,
        description="Size from which a search's results are sent in several parts, in bytes.",
    )
    in_flight: int = Field(
        32,
        ge=1,
        le=10_000,
        description="Requests of one socket worked on at once; with more it is not read.",
    )
    requests_per_second: float = Field(
        2_000, gt=0, description="Requests a second that one socket may send in the long run."
    )
    burst: int = Field(
        5_000, ge=1, description="Requests it may send at once after it has been quiet."
    )
    subscriptions: int = Field(100, ge=1, description="Subscriptions of one socket.")
    watches: int = Field(4_000, ge=1, description="Live queries of one socket.")
    max_unacked: int = Field(
        10_000, ge=1, description="Largest `max_unacked` a subscription may ask for, in events."
    )
    ping_every: Seconds = Field(
        timedelta(seconds=20), description="How often a socket is pinged, in seconds."
    )
    ping_timeout: Seconds = Field(
        timedelta(seconds=20),
        description="How late an answer to a ping may be before the socket is closed, in seconds.",
    )
    stall: Seconds = Field(
        timedelta(seconds=60),
        description="A client that reads nothing for this long is disconnected, in seconds.",
    )


class SessionSettings(Section):
    """Shared search sessions: how many, how large, and how soon somebody counts as gone."""

    most: int = Field(1_000, ge=1, description="Sessions there may be.")
    people: int = Field(100, ge=1, le=1_000, description="People in one session at once.")
    pins: int = Field(200, ge=1, description="Pins in one session.")
    notes: int = Field(500, ge=1, description="Notes in one session.")
    note_chars: int = Field(
        4_000, ge=1, description="Length of a note, or of a pin's text, in characters."
    )
    k: int = Field(100, ge=1, le=1_000, description="Results of a session's query.")
    message_bytes: int = Field(
        4 * KiB,
        ge=64,
        le=32 * KiB,
        description="Largest message that one person passes to the others, in bytes.",
    )
    messages_per_second: float = Field(
        20, gt=0, description="Messages a second that one person may pass to the others."
    )
    requests_per_second: float = Field(
        50, gt=0, description="Requests a second that one person may send."
    )
    buffer_bytes: int = Field(
        MiB,
        ge=64 * KiB,
        description="Events kept for somebody who reads slowly, before the whole state is sent "
        "instead, in bytes.",
    )
    ping_every: Seconds = Field(
        timedelta(seconds=2),
        ge=_TICK,
        description="How often a person's socket is pinged, in seconds.",
    )
    ping_timeout: Seconds = Field(
        timedelta(seconds=5),
        description="How late an answer to a ping may be before that person has left, in seconds.",
    )
    lease: Seconds = Field(
        timedelta(seconds=10),
        ge=_TICK,
        description="How long a server process may be silent before its people have left, "
        "in seconds.",
    )
    reap_every: Seconds = Field(
        timedelta(seconds=1),
        ge=_TICK,
        description="How often the people of processes that ended are looked for, in seconds.",
    )
    keep: Seconds = Field(
        timedelta(days=30),
        description="A session nobody has been in for this long is deleted, in seconds.",
    )


class JobSettings(Section):
    """Jobs: who runs them, how often, and how long they are remembered."""

    size: int = Field(
        4,
        ge=0,
        le=64,
        description="Jobs that a server process runs at once; `PUT /v1/workers` changes it while "
        "it runs.",
    )
    types: str = Field(
        "*",
        description="Types of jobs that a server process takes, separated by commas, `*` for all.",
    )
    heavy: int = Field(
        1, ge=1, le=64, description="Of these, how many may be of a heavy type, such as rebuilds."
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="How often a job is tried unless it says otherwise."
    )
    backoff: Seconds = Field(
        timedelta(seconds=1),
        description="Longest wait before a failed job is tried again, doubled each time, "
        "in seconds.",
    )
    backoff_max: Seconds = Field(
        timedelta(minutes=5), description="Longest wait before any such try, in seconds."
    )
    lease: Seconds = Field(
        timedelta(seconds=30),
        description="How long a process may be silent before others take over its jobs, "
        "in seconds. One that has ended is noticed at once.",
    )
    reap_every: Seconds = Field(
        timedelta(seconds=1),
        description="How often jobs of processes that ended are looked for, in seconds.",
    )
    poll: Seconds = Field(
        timedelta(seconds=1),
        description="How often waiting jobs and due schedules are looked for when no bell has "
        "rung, in seconds.",
    )
    progress_every: Seconds = Field(
        timedelta(milliseconds=250),
        description="How often the progress of one job is told, at most, in seconds.",
    )
    stop: Seconds = Field(
        timedelta(seconds=3),
        description="How long a job's thread may take to notice that it is to stop before it is "
        "left to itself, in seconds.",
    )
    max_queued: int = Field(100_000, ge=1, description="Jobs that wait before more are refused.")
    batch: int = Field(1_000, ge=1, description="Jobs submitted in one request.")
    params_bytes: int = Field(
        4 * MiB, ge=KiB, description="Largest parameters of one job, as JSON, in bytes."
    )
    result_bytes: int = Field(
        256 * KiB, ge=KiB, description="Largest result of a job, as JSON, in bytes."
    )
    keep: Seconds = Field(
        timedelta(days=7),
        description="How long completed and cancelled jobs are kept, with their folders, "
        "in seconds.",
    )
    keep_failed: Seconds = Field(
        timedelta(days=30), description="How long failed ones are kept, in seconds."
    )
    schedules: int = Field(1_000, ge=1, description="Schedules there may be.")
    grace: Seconds = Field(
        timedelta(seconds=60),
        description="How late a schedule may fire before the firing counts as missed, in seconds.",
    )
    catch_up: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Jobs that a schedule of policy `all` submits at once for firings that were "
        "missed, the latest ones.",
    )


class TransferSettings(Section):
    """Imports and exports as jobs: the files they read and leave."""

    import_folder: Path | None = Field(
        None,
        description="Folder whose files imports may read by their path; none may when not set.",
    )
    upload_bytes: int = Field(
        16 * GiB,
        ge=KiB,
        description="Largest file that may be sent to be imported, decompressed, in bytes.",
    )
    error_lines: int = Field(
        100_000, ge=1, description="Errors of lines that one import keeps; more are only counted."
    )
    export_keep: Seconds = Field(
        timedelta(days=1), description="How long the file of an export is kept, in seconds."
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
        env_prefix="HEADWATER_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
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
    websocket: WebSocketSettings = WebSocketSettings()
    sessions: SessionSettings = SessionSettings()
    embed: EmbedSettings = Field(default_factory=EmbedSettings)
    jobs: JobSettings = JobSettings()
    limits: LimitSettings = LimitSettings()
    live: LiveSettings = LiveSettings()
    transfer: TransferSettings = TransferSettings()
