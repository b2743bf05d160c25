"""What a socket asks: the same services as the HTTP routes."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.changes import Log
from headwater.clock import Clock
from headwater.feeds import Hub
from headwater.service.documents import Documents
from headwater.service.libraries import Libraries
from headwater.service.live import LiveSearches
from headwater.service.search import Search
from headwater.settings import LimitSettings, WebSocketSettings
from headwater.threads import Pool


@dataclass(frozen=True, slots=True)
class Services:
    log: Log
    hub: Hub
    libraries: Libraries
    documents: Documents
    search: Search
    live: LiveSearches
    clock: Clock
    settings: WebSocketSettings
    limits: LimitSettings
    pool: Pool
