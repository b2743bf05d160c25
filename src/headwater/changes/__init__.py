"""The change log as its followers see it."""

from headwater.changes.bell import Bell
from headwater.changes.log import Log
from headwater.changes.ring import Ring

__all__ = ["Bell", "Log", "Ring"]
