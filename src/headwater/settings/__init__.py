"""Every setting: name, type, default, unit and a sentence.

Built once at the edge (the CLI or `app.create_app`) from flags and `HEADWATER_…` variables; each
part is given its own section and reads no environment itself. A section's field is set as
`HEADWATER_<SECTION>__<FIELD>`, for example `HEADWATER_STORE__DURABILITY=normal`.
"""

from headwater.settings.connections import FeedSettings, SessionSettings, WebSocketSettings
from headwater.settings.documents import IngestSettings, TransferSettings
from headwater.settings.embed import COHERE_URL, OPENAI_URL, EmbedSettings
from headwater.settings.jobs import JobSettings
from headwater.settings.limits import LimitSettings
from headwater.settings.search import LiveSettings, SearchSettings
from headwater.settings.section import Section
from headwater.settings.server import Settings
from headwater.settings.store import LogSettings, StoreSettings

__all__ = [
    "COHERE_URL",
    "OPENAI_URL",
    "EmbedSettings",
    "FeedSettings",
    "IngestSettings",
    "JobSettings",
    "LimitSettings",
    "LiveSettings",
    "LogSettings",
    "SearchSettings",
    "Section",
    "SessionSettings",
    "Settings",
    "StoreSettings",
    "TransferSettings",
    "WebSocketSettings",
]
