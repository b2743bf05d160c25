"""Vector search over local views that follow the log."""

from headwater.search.base import Neighbours, SearchEngine, ViewStatus
from headwater.search.vector_views import LocalViews

__all__ = ["LocalViews", "Neighbours", "SearchEngine", "ViewStatus"]
