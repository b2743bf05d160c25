"""Feeds: followers that send changes to somebody."""

from headwater.feeds.event import Event, Format
from headwater.feeds.hub import EventPage, Hub, reset
from headwater.feeds.open_streams import OpenStreams
from headwater.feeds.reader import RenderDocuments, Wish
from headwater.feeds.row import Line
from headwater.feeds.selection import Selection, parse_condition, parse_types
from headwater.feeds.subscription import Subscription, Voice

__all__ = [
    "Event",
    "EventPage",
    "Format",
    "Hub",
    "Line",
    "OpenStreams",
    "RenderDocuments",
    "Selection",
    "Subscription",
    "Voice",
    "Wish",
    "parse_condition",
    "parse_types",
    "reset",
]
