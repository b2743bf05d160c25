"""All of the server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headwater.settings.connections import FeedSettings, SessionSettings, WebSocketSettings
from headwater.settings.documents import IngestSettings, TransferSettings
from headwater.settings.embed import EmbedSettings
from headwater.settings.jobs import JobSettings
from headwater.settings.limits import LimitSettings
from headwater.settings.search import LiveSettings, SearchSettings
from headwater.settings.section import Seconds, count, in_seconds
from headwater.settings.store import LogSettings, StoreSettings


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
    port: int = count(8000, "Port to listen on; 0 picks a free one.", least=0, most=65535)
    data: Path = Field(Path("data"), description="Folder of the store and its index files.")
    workers: int = count(1, "Server processes on this data folder.", most=64)
    allow_open: bool = Field(
        False,
        description="Listen on an address others can reach although there are no API keys.",
    )
    stop_timeout: Seconds = in_seconds(5, "How long a stopping server waits")
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
